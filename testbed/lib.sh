# Helpers for services/*.sh. A service file sets: about, port, (boot), and the functions install, start, ready, url.

say() { printf 'testbed: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# Some servers refuse root: it becomes another uid, in a user namespace where the machine allows one.
if [ "$(id -u)" != 0 ]; then
  as_user() { "$@"; }
elif unshare --user --map-user=1000 --map-group=1000 true 2>/dev/null; then
  as_user() { unshare --user --map-user=1000 --map-group=1000 "$@"; }
else
  as_user() { setpriv --reuid=65534 --regid=65534 --clear-groups "$@"; }
  other_uid=65534
  TESTBED_HOME=${TESTBED_HOME:-/var/tmp/steward-testbed} # root's own home is closed to others
fi
H=${TESTBED_HOME:-$HOME/.cache/steward-testbed}
own() { # own DIR: gives $data or a part of it to as_user's uid, and lets it pass through the folders above
  [ -n "${other_uid:-}" ] || return 0
  chmod a+x "${TESTBED_DATA:-$H}" "${TESTBED_DATA:-$H}/data"
  chown -R "$other_uid:$other_uid" "$1"
}

load() { # load NAME: defaults, then the service's own file
  local p d=${TESTBED_DATA:-$H}
  name=$1 boot=60
  var=$(tr 'a-z-' 'A-Z_' <<<"$name")
  data=$d/data/$name log=$d/log/$name.log pidfile=$d/run/$name.pid
  mkdir -p "$H" "$data" "$d/log" "$d/run"
  . "$here/services/$name.sh"
  p=TESTBED_PORT_$var; port=${!p:-$port}
}

# --- processes -------------------------------------------------------------
spawn() { # spawn CMD...: background, own process group, log and pid file
  (cd "$data" && exec setsid nohup "$@" >"$log" 2>&1 </dev/null 9>&-) & echo $! >"$pidfile"
}
running() { [ -s "$pidfile" ] && kill -0 "$(cat "$pidfile")" 2>/dev/null; }
stop() {
  local p i; p=$(cat "$pidfile")
  kill -INT -- "-$p" 2>/dev/null || true
  for ((i = 0; i < 80; i++)); do kill -0 -- "-$p" 2>/dev/null || return 0; sleep 0.25; done
  kill -KILL -- "-$p" 2>/dev/null || true
}
port_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# --- packages: fetched once --------------------------------------------------
fresh() { [ "$(cat "$1/.spec" 2>/dev/null)" = "$2" ]; } # fresh DIR SPEC

# deb_tree NAME SUITE PACKAGE...: the packages of any Debian suite and all they depend on,
# unpacked (not installed: no root, no service started) into $H/deb/NAME and made to run from
# there with their own libc. Uses the Debian mirror this machine is set up with.
deb_tree() {
  local d=$H/deb/$1 spec="${*:2}" suite=$2 a=$H/apt/$2 mirror f
  fresh "$d" "$spec" && return
  say "install $1 ($spec) into $d"
  command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
    die "$1 comes from Debian packages, and apt-get or dpkg-deb is missing here: run this on Debian or Ubuntu"
  mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources} 2>/dev/null |
    grep -v '^ *#' | grep -oE 'https?://[^ ]+/debian/?( |$)' | head -1 || true)
  [ -n "$mirror" ] || die "no Debian mirror in this machine's apt sources (/etc/apt/sources.list)"
  local keys=/usr/share/keyrings/debian-archive-keyring.gpg
  [ -f "$keys" ] || die "no $keys: apt-get install debian-archive-keyring"
  mkdir -p "$a"/{etc/preferences.d,etc/apt.conf.d,lists/partial,cache/archives/partial}; : >"$a/status"
  for f in /etc/apt/apt.conf.d/*; do # the machine's settings, without hooks that act on its own apt
    grep -q Invoke "$f" || cp "$f" "$a/etc/apt.conf.d/"
  done
  echo "Dir::Etc \"$a/etc\";" >"$a/apt.conf"
  echo "deb [signed-by=$keys] $mirror $suite main" >"$a/etc/sources.list"
  local apt=(env APT_CONFIG="$a/apt.conf" apt-get -qq -y -o Dir::State="$a" -o Dir::State::lists="$a/lists"
    -o Dir::State::status="$a/status" -o Dir::Cache="$a/cache" -o Debug::NoLocking=1
    -o APT::Sandbox::User="$(id -un)" -o Acquire::Languages=none -o Acquire::Retries=3)
  "${apt[@]}" update >&2
  rm -f "$a"/cache/archives/*.deb
  "${apt[@]}" --no-install-recommends --download-only install "${@:3}" patchelf >/dev/null
  rm -rf "$d"; mkdir -p "$d"
  for f in "$a"/cache/archives/*.deb; do dpkg-deb -x "$f" "$d"; done
  rm -f "$a"/cache/archives/*.deb
  rm -rf "$d"/usr/share/{doc,man,locale,info}
  for f in bin sbin lib lib64; do # packages from before the /usr merge
    if [ -d "$d/$f" ] && [ ! -L "$d/$f" ]; then mkdir -p "$d/usr/$f"; cp -a "$d/$f/." "$d/usr/$f/"; rm -rf "${d:?}/$f"; fi
  done
  local lib loader elf
  lib=$d/usr/lib/$(uname -m)-linux-gnu
  loader=$(find "$lib" -maxdepth 1 -name 'ld-linux-*.so.*' | head -1)
  local patchelf=("$loader" --library-path "$lib" "$d/usr/bin/patchelf")
  cp "$d/usr/bin/patchelf" "$d/patchelf"; patchelf[3]=$d/patchelf # it must not patch itself while it runs
  find "$d/usr" -type f -perm -u+x -path '*bin/*' | while read -r f; do
    elf=$(od -An -tx1 -N18 "$f" | tr -d ' \n')
    case $elf in 7f454c46*0300) ;; *) continue ;; esac # position-independent programs only
    "${patchelf[@]}" --force-rpath --set-rpath "$lib" --set-interpreter "$loader" "$f" 2>/dev/null || true
  done
  echo "$spec" >"$d/.spec"
}

venv_spec() { cat "$1" && python3 --version; } # what a Python environment was made from
# venv NAME FILE: a Python environment with the packages that FILE lists, each with its version; wheels only, so that
# nothing is compiled.
venv() {
  local d=$H/venv/$1 spec; spec=$(venv_spec "$2")
  fresh "$d" "$spec" && return
  say "install $1 (Python packages of $(basename "$2")) into $d"
  python3 -c 'import ensurepip, venv' 2>/dev/null || die "Python's venv is missing: apt-get install python3-venv"
  rm -rf "$d"; python3 -m venv "$d"
  "$d/bin/pip" install -q --disable-pip-version-check --no-deps --only-binary=:all: -r "$2" >&2
  echo "$spec" >"$d/.spec"
}

# node_modules NAME PACKAGE@VERSION...: packages for Node, without their install scripts.
node_modules() {
  local d=$H/npm/$1 spec="${*:2}"
  fresh "$d" "$spec" && return
  say "install $1 ($spec) into $d"
  command -v npm >/dev/null || die "npm is missing: apt-get install nodejs npm"
  rm -rf "$d"; mkdir -p "$d"
  npm install --prefix "$d" --no-audit --no-fund --ignore-scripts --loglevel=error "${@:2}" >&2
  echo "$spec" >"$d/.spec"
}

# go_program NAME PACKAGE@VERSION: a program that Go builds, into $H/go/NAME/bin; what it was built from is not kept.
go_program() {
  local d=$H/go/$1 spec=$2
  fresh "$d" "$spec" && return
  say "install $1 ($spec) into $d: this builds it, for some minutes"
  command -v go >/dev/null || die "Go is missing, which builds $1: apt-get install golang-go (1.24 or later)"
  rm -rf "$d"; mkdir -p "$d/build"
  env GOBIN="$d/bin" GOPATH="$d/build/path" GOCACHE="$d/build/cache" GOFLAGS=-modcacherw CGO_ENABLED=0 go install "$spec" >&2
  rm -rf "$d/build"
  echo "$spec" >"$d/.spec"
}
