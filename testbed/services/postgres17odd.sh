# As much as possible is wrong with this one: `steward store health` must find each of it. Nothing comes from outside
# this machine: the rules below name addresses that are for documentation (RFC 5737).
ver=17 suite=trixie port=25437 tree=postgres17
about="PostgreSQL 17 set up as badly as it lets itself (real)"
rules="host all postgres 127.0.0.1/32 trust
host all all 127.0.0.1/32 scram-sha-256
host all nobody 192.0.2.0/24 trust
host all nobody 198.51.100.0/24 password
host all nobody 203.0.113.0/24 md5"
settings=(-c fsync=off -c full_page_writes=off -c autovacuum=off -c autovacuum_vacuum_scale_factor=0.9
  -c autovacuum_freeze_max_age=2000000000 -c max_connections=24 -c shared_buffers=1MB -c max_wal_size=32MB -c min_wal_size=32MB
  -c archive_mode=on -c synchronous_commit=local -c synchronous_standby_names=nobody
  -c max_prepared_transactions=4 -c ssl_min_protocol_version=TLSv1)
. "$here/services/_postgres.sh"
