# A server at the end of its years, and without what others take for granted: its transaction and multixact ids are
# 1,300 million old, a transaction that was prepared 11 million ids ago keeps its dead rows, and there is no TLS, no log
# for copies or an archive, and room for 600 clients.
ver=17 suite=trixie port=25487 tree=postgres17 tls=no
about="PostgreSQL 17 with old transaction ids, without TLS and with a minimal log (real)"
settings=(-c fsync=off -c full_page_writes=off -c wal_level=minimal -c max_wal_senders=0 -c max_connections=600
  -c shared_buffers=16MB -c max_prepared_transactions=2 -c autovacuum_freeze_max_age=2000000000
  -c autovacuum_multixact_freeze_max_age=2000000000)
. "$here/services/_postgres.sh"

# Sets the next ids and makes the pieces of the logs of ids that they are in.
# Source: PostgreSQL manual, pg_resetwal: a segment of pg_xact has 0x100000 ids, one of pg_multixact/offsets 0x10000.
ids() { # ids TRANSACTION MULTIXACT
  as_user "$pg/pg_resetwal" -D "$data/db" -x "$1" -m "$2,1" >>"$log"
  as_user truncate -s 256K "$data/db/pg_xact/$(printf %04X $(($1 >> 20)))" \
    "$data/db/pg_multixact/offsets/$(printf %04X $(($2 >> 16)))"
}
alone() { as_user "$pg/postgres" --single -D "$data/db" -c max_prepared_transactions=2 postgres >>"$log" 2>&1; }
made() {
  alone <<<'CREATE TABLE old (id int PRIMARY KEY)'
  ids 1289000000 1300000000
  # The server writes 4 bytes for each id since the oldest prepared transaction when it starts.
  alone <<'SQL'
BEGIN
INSERT INTO old VALUES (1)
PREPARE TRANSACTION 'forgotten'
SQL
  ids 1300000000 1300000000
}
