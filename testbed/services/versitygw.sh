about="an S3 server (Versity gateway) that checks signatures, policies, versions and object lock"
port=27070
version=1.8.0
t=$H/go/versitygw
install() { go_program versitygw "github.com/versity/versitygw/cmd/versitygw@v$version"; }
# Metadata is kept in extended attributes, so the folder must be on a file system that has them for users.
start() {
  mkdir -p "$data"/{buckets,versions,iam}
  ROOT_ACCESS_KEY=root ROOT_SECRET_KEY=rootsecret spawn "$t/bin/versitygw" --port "127.0.0.1:$port" --region us-east-1 \
    --iam-dir "$data/iam" posix --versioning-dir "$data/versions" "$data/buckets"
}
ready() {
  port_free "$port" && return 1
  local user
  for user in writer pruner other; do # names are the access keys; they have no rights until a policy gives them some
    "$t/bin/versitygw" admin -a root -s rootsecret --endpoint-url "http://127.0.0.1:$port" --region us-east-1 \
      create-user -a "$user" -s "${user}secret" -r user >/dev/null 2>&1 || has_user "$user" || return 1
  done
}
has_user() {
  "$t/bin/versitygw" admin -a root -s rootsecret --endpoint-url "http://127.0.0.1:$port" --region us-east-1 list-users 2>/dev/null | grep -qw "$1"
}
url() { echo "http://127.0.0.1:$port"; }
