#!/bin/sh
# Puts a physical backup together without Steward: sh restore.sh NEW_DATA_DIRECTORY
# Tablespaces are put below NEW_DATA_DIRECTORY.tablespaces. A server of the same major version starts on the result.
set -eu
umask 077
here=$(cd "$(dirname "$0")" && pwd)
to=${1:?the new data directory}
if [ -e "$to" ]; then echo "$to exists, and nothing is overwritten" >&2; exit 1; fi
mkdir -p "$to"
to=$(cd "$to" && pwd)
chmod 700 "$to"
tab=$(printf '\t')
cat "$here"/3-index.tsv* | while IFS=$tab read -r kind mode path first parts; do
  case $kind in
  d) mkdir -p "$to/$path"; chmod "$mode" "$to/$path" ;;
  l) space=$to.tablespaces/${path##*/}
     mkdir -p "$space"
     ln -s "$space" "$to/$path" ;;
  f) case $path in */*) mkdir -p "$to/${path%/*}" ;; esac
     : >"$to/$path"
     part=$first
     while [ "$part" -lt $((first + parts)) ]; do
       cat "$here/2-files/$(printf %06d $((part / 1000)))/$(printf %09d "$part")" >>"$to/$path"
       part=$((part + 1))
     done
     chmod "$mode" "$to/$path" ;;
  esac
done
cat "$here"/4-backup-manifest.json* >"$to/backup_manifest"
if [ -s "$to/tablespace_map" ]; then
  for space in "$to.tablespaces"/*; do echo "${space##*/} $space"; done >"$to/tablespace_map"
fi
echo "$to is complete; check it with: pg_verifybackup --ignore=tablespace_map $to"
