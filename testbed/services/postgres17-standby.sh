# A hot standby of PostgreSQL 17 that follows a primary of its own through a physical slot. The primary listens on the
# next free port; `SELECT setting FROM pg_settings WHERE name = 'primary_conninfo'` on the standby says which.
about=${about:-"PostgreSQL 17, a hot standby that streams from a primary of its own (real)"} port=${port:-25447}
pg=$H/deb/postgres17/usr/lib/postgresql/17/bin
install() { deb_tree postgres17 trixie postgresql-17 openssl; }

start() {
  own "$data"
  local primary=$((port + 1))
  if [ -f "$data/primary_port" ]; then
    primary=$(cat "$data/primary_port")
  else
    while ! port_free "$primary"; do primary=$((primary + 1)); done
    echo "$primary" >"$data/primary_port"
  fi
  local common=(-h 127.0.0.1 -c unix_socket_directories= -c fsync=off -c full_page_writes=off -c max_connections=60
    -c shared_buffers=32MB -c shared_preload_libraries=pg_stat_statements -c compute_query_id=on
    ${settings[@]+"${settings[@]}"})
  if [ ! -f "$data/primary/PG_VERSION" ]; then
    # shellcheck disable=SC2086 # Options are words.
    as_user "$pg/initdb" -D "$data/primary" -U postgres -A trust -E UTF8 --no-locale --no-sync ${new:-} >>"$log" ||
      { tail -n 30 "$log" >&2; die "initdb failed"; }
    # The superuser needs no password, also to stream; every other role proves who it is.
    as_user tee "$data/primary/pg_hba.conf" >/dev/null <<'HBA'
host all         postgres 127.0.0.1/32 trust
host replication postgres 127.0.0.1/32 trust
host all         all      127.0.0.1/32 scram-sha-256
HBA
  fi
  spawn bash -c "$(declare -f as_user); as_user \"\$@\"" - bash -c '
    pg=$1 data=$2 primary=$3 port=$4; shift 4
    "$pg/postgres" -D "$data/primary" -p "$primary" "$@" & 
    until "$pg/pg_isready" -q -h 127.0.0.1 -p "$primary"; do sleep 0.1; done
    if [ ! -f "$data/db/PG_VERSION" ]; then
      "$pg/pg_basebackup" -D "$data/db" -h 127.0.0.1 -p "$primary" -U postgres -R -C -S standby -c fast --no-sync || exit 1
    fi
    "$pg/postgres" -D "$data/db" -p "$port" -c cluster_name="standby_$port" "$@" &
    wait' - "$pg" "$data" "$primary" "$port" "${common[@]}"
}
ready() { "$pg/pg_isready" -q -h 127.0.0.1 -p "$port"; }
url() { echo "postgres://postgres@127.0.0.1:$port/postgres"; }
