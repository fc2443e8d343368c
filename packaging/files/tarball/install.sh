#!/bin/sh
# Installs kvmnatd from this folder, or upgrades an older version. An existing /etc/kvmnatd.yaml stays.
#   PREFIX=/usr/local   folder of the program; also /usr, or a separate folder such as /opt/kvmnatd
#   DESTDIR=            for packagers: installs below that folder and changes nothing else on this host
set -eu
[ $# = 0 ] || { echo "usage: [PREFIX=/usr/local] [DESTDIR=] ./install.sh" >&2; exit 64; }
PREFIX=${PREFIX:-/usr/local}
DESTDIR=${DESTDIR:-}
program=$PREFIX/bin/kvmnatd
home=$PREFIX/lib/kvmnatd
@LIFECYCLE@
[ -n "$DESTDIR" ] || [ "$(id -u)" = 0 ] || { echo "install.sh: must be run as root" >&2; exit 1; }

case $PREFIX in
  *[!A-Za-z0-9/._+-]*)
    echo "install.sh: only letters, digits and / . _ + - in PREFIX, not $PREFIX" >&2
    exit 64
    ;;
esac

# systemd reads only these two folders and /etc, which belongs to the admin.
case $PREFIX in
  /usr | /usr/local) systemd=$PREFIX ;;
  /home | /home/* | /root | /root/*)
    echo "install.sh: PREFIX must not be in $PREFIX: the service does not see it (ProtectHome=yes)" >&2
    exit 64
    ;;
  /*) systemd=/usr/local ;;
  *) echo "install.sh: PREFIX must begin with /, not be $PREFIX" >&2; exit 64 ;;
esac

# The list of files and folders (with a / at the end) that this script makes, for uninstall.sh.
list=$(mktemp)
trap 'rm -f "$list"' EXIT

make_folder() {
  [ ! -d "$DESTDIR$1" ] || return 0
  make_folder "$(dirname "$1")"
  mkdir "$DESTDIR$1"
  echo "$1/" >>"$list"
}

# FILE TARGET: installs the file with the paths of this PREFIX. Renames it into place, because the program may be running.
place() {
  make_folder "$(dirname "$2")"
  case $1 in
    */node) cp "$1" "$DESTDIR$2.new" ;;
    *) sed "s,/usr/\(bin\|lib\|share\|share/doc\)/kvmnatd,$PREFIX/\1/kvmnatd,g; s,:-/usr/local},:-$PREFIX}," "$1" >"$DESTDIR$2.new" ;;
  esac
  chmod "$(stat -c %a "$1")" "$DESTDIR$2.new"
  mv "$DESTDIR$2.new" "$DESTDIR$2"
}

# FILE: prints its target.
target_of() {
  case $1 in
    uninstall.sh) echo "$home/$1" ;;
    usr/lib/systemd/* | usr/lib/sysusers.d/* | usr/lib/tmpfiles.d/*) echo "$systemd/${1#usr/}" ;;
    *) echo "$PREFIX/${1#usr/}" ;;
  esac
}

cd "$(dirname "$0")"
umask 022
[ -z "$DESTDIR" ] || mkdir -p "$DESTDIR"
for file in uninstall.sh $(find usr -type f); do
  target=$(target_of "$file")
  place "$file" "$target"
  echo "$target" >>"$list"
done
[ -e "$DESTDIR/etc/kvmnatd.yaml" ] || place etc/kvmnatd.yaml /etc/kvmnatd.yaml

before=$DESTDIR$home/installed-files
if [ -e "$before" ]; then
  # Removes files that only the previous version had. Its folders stay in the list.
  { grep -v '/$' "$before" | grep -vxFf "$list" || :; } | while read -r gone; do rm -f "$DESTDIR$gone"; done
  grep '/$' "$before" >>"$list" || :
fi
install -m 644 "$list" "$before"

if [ -z "$DESTDIR" ]; then
  set_up
  restart_running
  echo "kvmnatd is installed. Edit /etc/kvmnatd.yaml, then: systemctl enable --now kvmnatd"
  echo "$home/uninstall.sh removes it."
fi
