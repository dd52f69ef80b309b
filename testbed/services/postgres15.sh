ver=15 suite=bookworm port=25415
. "$here/services/_postgres.sh"
