#!/bin/sh
# Installs kvmnatd from this folder, or a newer version over an older one. An /etc/kvmnatd.yaml that is there stays.
#   PREFIX=/usr/local   where the program goes; also /usr, or a folder of its own such as /opt/kvmnatd
#   DESTDIR=            for packagers: all goes below that folder, and nothing of this host is touched
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

# systemd looks in these two alone, beside /etc, which is the admin's.
case $PREFIX in
  /usr | /usr/local) systemd=$PREFIX ;;
  /home | /home/* | /root | /root/*)
    echo "install.sh: PREFIX must not be in $PREFIX: the service does not see it (ProtectHome=yes)" >&2
    exit 64
    ;;
  /*) systemd=/usr/local ;;
  *) echo "install.sh: PREFIX must begin with /, not be $PREFIX" >&2; exit 64 ;;
esac

# What is made here, for uninstall.sh: files, and folders with a / at the end.
list=$(mktemp)
trap 'rm -f "$list"' EXIT

make_folder() {
  [ ! -d "$DESTDIR$1" ] || return 0
  make_folder "$(dirname "$1")"
  mkdir "$DESTDIR$1"
  echo "$1/" >>"$list"
}

# FILE TARGET: the file with the paths of this PREFIX; a program that runs is replaced, not written into.
place() {
  make_folder "$(dirname "$2")"
  case $1 in
    */node) cp "$1" "$DESTDIR$2.new" ;;
    *) sed "s,/usr/\(bin\|lib\|share\|share/doc\)/kvmnatd,$PREFIX/\1/kvmnatd,g; s,:-/usr/local},:-$PREFIX}," "$1" >"$DESTDIR$2.new" ;;
  esac
  chmod "$(stat -c %a "$1")" "$DESTDIR$2.new"
  mv "$DESTDIR$2.new" "$DESTDIR$2"
}

# FILE: where it goes.
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
  # What the version before had and this one has not; the folders are there since then.
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
