ver=17 suite=trixie port=25477
. "$here/services/_postgres.sh"
about="PostgreSQL 17 with a folder \`small\` of 16 MiB: a disk that runs full (real)"
install() { deb_tree postgres17 "$suite" "postgresql-$ver" openssl; ln -sfn postgres17 "$H/deb/$name"; }
# The small disk is a file system in memory that this server alone sees, in a mount namespace of its own.
spawn() { # spawn bash -c CODE - POSTGRES ARGS...
  local apart=(--user --map-root-user --mount) become='unshare --user --map-user=1000 --map-group=1000'
  if [ -n "${other_uid:-}" ]; then
    apart=(--mount) become="setpriv --reuid=$other_uid --regid=$other_uid --clear-groups"
  fi
  mkdir -p "$data/small"
  (cd "$data" && exec setsid nohup unshare "${apart[@]}" bash -c \
    "mount -t tmpfs -o size=16m,mode=1777 tmpfs \"\$1\" && shift && exec $become \"\$@\"" - "$data/small" "${@:5}" \
    >"$log" 2>&1 </dev/null 9>&-) &
  echo $! >"$pidfile"
}
