ver=17 suite=trixie port=25417
. "$here/services/_postgres.sh"
