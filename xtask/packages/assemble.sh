# Makes one Debian package in the build root. The tree is in /tmp/work/root, the program is in its usr/bin; $1 is the name of
# the program, $2 the file to write. SOURCE_DATE_EPOCH is set: dpkg-deb takes every time from it.
set -eu
cd /tmp/work/root
"usr/bin/$1" documents usr/share
find usr/share/man -type f -exec gzip -9n {} +
find . -type d -exec chmod 0755 {} +
find . -type f -exec chmod 0644 {} +
chmod 0755 usr/bin/*
for script in preinst postinst prerm postrm; do
    if [ -e "DEBIAN/$script" ]; then chmod 0755 "DEBIAN/$script"; fi
done
find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum > DEBIAN/md5sums
printf 'Installed-Size: %s\n' "$(du -k --apparent-size --summarize --exclude=DEBIAN . | cut -f 1)" >> DEBIAN/control
chmod 0644 DEBIAN/md5sums DEBIAN/control
find . -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
# One thread: with several, the compressed bytes depend on their number.
dpkg-deb --root-owner-group --threads-max=1 -Zxz --build . "/tmp/work/$2"
