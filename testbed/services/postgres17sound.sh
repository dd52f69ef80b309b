# Nothing is wrong with this one: `steward store health` must find nothing.
ver=17 suite=trixie port=25427 tree=postgres17 new=--data-checksums
about="PostgreSQL 17 set up as a careful operator would (real)"
rules="host all postgres 127.0.0.1/32 trust
hostssl all all 127.0.0.1/32 scram-sha-256"
settings=(-c shared_preload_libraries=pg_stat_statements -c log_min_duration_statement=1000 -c log_lock_waits=on
  -c log_checkpoints=on -c idle_in_transaction_session_timeout=600000 -c statement_timeout=600000 -c lock_timeout=60000)
. "$here/services/_postgres.sh"
