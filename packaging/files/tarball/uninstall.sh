#!/bin/sh
# Removes the files that install.sh has installed, and the rules; with --purge also /etc/kvmnatd.yaml and the user kvmnatd.
# PREFIX and DESTDIR as for install.sh.
set -eu
case $#${1-} in
  0 | 1--purge) ;;
  *) echo "usage: [PREFIX=/usr/local] [DESTDIR=] ./uninstall.sh [--purge]" >&2; exit 64 ;;
esac
PREFIX=${PREFIX:-/usr/local}
DESTDIR=${DESTDIR:-}
program=$PREFIX/bin/kvmnatd
@LIFECYCLE@
list=$DESTDIR$PREFIX/lib/kvmnatd/installed-files
[ -e "$list" ] || { echo "uninstall.sh: nothing is installed in $DESTDIR$PREFIX: $list does not exist" >&2; exit 1; }
[ -n "$DESTDIR" ] || [ "$(id -u)" = 0 ] || { echo "uninstall.sh: must be run as root" >&2; exit 1; }

[ -n "$DESTDIR" ] || retire
paths=$(sort -r "$list")
rm "$list"
[ "${1-}" != --purge ] || rm -f "$DESTDIR/etc/kvmnatd.yaml"
echo "$paths" | while IFS= read -r path; do
  case $path in
    */) rmdir --ignore-fail-on-non-empty "$DESTDIR$path" ;;
    *) rm -f "$DESTDIR$path" ;;
  esac
done
if [ -z "$DESTDIR" ]; then
  [ "${1-}" != --purge ] || remove_user
  tell_systemd
fi
