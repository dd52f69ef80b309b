about="age, zstd, pgBackRest and restic, which measurements of backups are compared with; programs, no server"
port=0
install() { deb_tree backup-peers bookworm age zstd pgbackrest restic; }
start() { :; }
ready() { [ -x "$(url)/pgbackrest" ]; }
url() { echo "$H/deb/backup-peers/usr/bin"; }
