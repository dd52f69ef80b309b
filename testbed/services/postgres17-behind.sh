# A primary and its standby that tests hold back, cut off and damage; nobody else should use them. The address is the
# primary's; it knows its standby as `standby_PORT`.
about="PostgreSQL 17, a primary with a standby that is held back (real)" port=25457
new=--data-checksums
settings=(-c max_connections=110 -c max_wal_size=32MB -c min_wal_size=32MB -c autovacuum_naptime=1s)
. "$here/services/postgres17-standby.sh"
url() { echo "postgres://postgres@127.0.0.1:$(cat "$data/primary_port")/postgres"; }
