about="PgBouncer in front of postgres17, one pool per transaction (real)" port=25432
install() { deb_tree "$name" bookworm pgbouncer; }
start() {
  local behind
  behind=$(TESTBED_DATA=${TESTBED_DATA:-} "$here/testbed" url postgres17)
  behind=${behind##*:} behind=${behind%/*}
  own "$data"
  # It asks the server behind for the passwords of all roles but the superuser, so that a test's own roles work at once.
  as_user tee "$data/users.txt" >/dev/null <<<'"postgres" ""'
  as_user tee "$data/pgbouncer.ini" >/dev/null <<INI
[databases]
* = host=127.0.0.1 port=$behind auth_user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $port
unix_socket_dir =
auth_type = scram-sha-256
auth_file = $data/users.txt
auth_query = SELECT usename, passwd FROM pg_shadow WHERE usename = \$1
pool_mode = transaction
max_client_conn = 200
default_pool_size = 20
INI
  spawn bash -c "$(declare -f as_user); as_user \"\$@\"" - "$H/deb/$name/usr/sbin/pgbouncer" "$data/pgbouncer.ini"
}
ready() { (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; }
url() { echo "postgres://127.0.0.1:$port"; }
