ver=18 suite=sid port=25418
. "$here/services/_postgres.sh"
