# Shared by postgres*.sh, which set: ver, suite, port; and, where they differ from the fast server that most tests use:
# tree (whose packages to use), about, new (options of initdb), rules (pg_hba.conf), settings (of the server), standby,
# tls (no: none), and the function made, which has a new server's files to itself before the first start
about=${about:-"PostgreSQL $ver with its contributed extensions; TLS with a certificate authority of its own (real)"}
tree=${tree:-$name}
pg=$H/deb/$tree/usr/lib/postgresql/$ver/bin
install() { deb_tree "$tree" "$suite" "postgresql-$ver" openssl; }

# The superuser needs no password; every other role proves who it is.
rules=${rules:-"host all postgres 127.0.0.1/32 trust
host all all      127.0.0.1/32 scram-sha-256"}
[ -n "${settings:-}" ] || settings=(-c fsync=off -c full_page_writes=off -c max_connections=200
  -c shared_preload_libraries=pg_stat_statements -c compute_query_id=on)

# A certificate for 127.0.0.1, signed by an authority that only the tests know: tls/ca.crt.
certificates() {
  local t=$data/tls openssl=$H/deb/$tree/usr/bin/openssl
  [ -f "$t/server.crt" ] && return
  mkdir -p "$t"
  cat >"$t/openssl.cnf" <<'CONF'
[req]
distinguished_name = subject
[subject]
[authority]
basicConstraints = critical,CA:true
keyUsage = critical,keyCertSign
[server]
basicConstraints = critical,CA:false
extendedKeyUsage = serverAuth
subjectAltName = IP:127.0.0.1
CONF
  local new=("$openssl" req -x509 -config "$t/openssl.cnf" -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650)
  "${new[@]}" -subj "/CN=testbed authority" -extensions authority -keyout "$t/ca.key" -out "$t/ca.crt" 2>>"$log"
  "${new[@]}" -subj "/CN=127.0.0.1" -extensions server -CA "$t/ca.crt" -CAkey "$t/ca.key" \
    -keyout "$t/server.key" -out "$t/server.crt" 2>>"$log"
  chmod 0600 "$t"/*.key
}

start() {
  certificates
  own "$data"
  if [ ! -f "$data/db/PG_VERSION" ]; then
    # shellcheck disable=SC2086 # Options are words.
    as_user "$pg/initdb" -D "$data/db" -U postgres -A trust -E UTF8 --no-locale --no-sync ${new:-} >>"$log" ||
      { tail -n 30 "$log" >&2; die "initdb failed"; }
    if declare -F made >/dev/null; then made || { tail -n 30 "$log" >&2; die "$name cannot be made"; }; fi
  fi
  [ -z "${standby:-}" ] || as_user touch "$data/db/standby.signal"
  as_user tee "$data/db/pg_hba.conf" >/dev/null <<<"$rules"
  local ssl=(-c ssl=on -c ssl_cert_file="$data/tls/server.crt" -c ssl_key_file="$data/tls/server.key")
  [ "${tls:-}" != no ] || ssl=()
  spawn bash -c "$(declare -f as_user); as_user \"\$@\"" - "$pg/postgres" -D "$data/db" \
    -p "$port" -h 127.0.0.1 -c unix_socket_directories= "${settings[@]}" ${ssl[@]+"${ssl[@]}"}
}
ready() { "$pg/pg_isready" -q -h 127.0.0.1 -p "$port"; }
url() { echo "postgres://postgres@127.0.0.1:$port/postgres"; }
