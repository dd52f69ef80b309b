# In recovery from its start, without a primary: what a standby looks like that has lost its own.
ver=17 suite=trixie port=25467 tree=postgres17 standby=yes
about="PostgreSQL 17 as a standby that nobody feeds (real)"
rules="host all postgres 127.0.0.1/32 trust"
settings=(-c hot_standby=on)
. "$here/services/_postgres.sh"
