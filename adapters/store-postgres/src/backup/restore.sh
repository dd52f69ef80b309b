#!/bin/sh
# Restores this backup into a new database, with psql alone: sh restore.sh NEW_DATABASE
# Reads PGHOST, PGPORT, PGUSER and the other variables of PostgreSQL's programs. Roles must exist: see 0-readme.txt.
set -eu
cd "$(dirname "$0")"
new=${1:?usage: sh restore.sh NEW_DATABASE}
export PGCLIENTENCODING="$(sed -n "s/^SET client_encoding = '\(.*\)';$/\1/p" 4-before-rows.sql | head -1)"
run() { psql -X -q -v ON_ERROR_STOP=1 -d "$new" "$@"; }
# The first statement makes the database; it is given the new name. The others, which are the old name's, are yours to run.
line=$(head -1 3-database.sql)
options=" WITH TEMPLATE = template0 ${line#* WITH TEMPLATE = template0 }"
quoted=$(printf '%s' "$new" | sed 's/"/""/g')
printf 'CREATE DATABASE "%s"%s\n' "$quoted" "$options" | psql -X -q -v ON_ERROR_STOP=1 -d postgres
run -o /dev/null -f 4-before-rows.sql
tab=$(printf '\t')
while IFS="$tab" read -r folder target; do
  for part in 5-rows/"$folder"/*.copy; do
    [ -f "$part" ] || continue
    printf 'COPY %s FROM STDIN;\n' "$target" | cat - "$part" | run
  done
done <5-rows/index.tsv
for part in 6-large-objects/*.sql; do
  [ ! -f "$part" ] || run -o /dev/null -f "$part"
done
run -o /dev/null -f 7-sequences.sql
run -o /dev/null -f 8-after-rows.sql
run -c 'ANALYZE'
printf 'restored into %s; the settings of the database itself are in 3-database.sql\n' "$new"
