//! `os/activation.toml` itself: a file in each place that it must list is noticed, and each place that it lists is needed for one of them.

use std::collections::BTreeSet;
use std::path::Path;

use super::tests::tree;
use super::*;

/// One file for each place and each kind: no build may have it without a line in `os/activation.toml`.
const PLANTED: &str = "
dbus usr/share/dbus-1/services/evil.service
dbus usr/share/dbus-1/system-services/evil.service
dbus usr/share/dbus-1/system.d/evil.conf
dbus usr/lib/dbus-1/system-services/evil.service
dbus etc/dbus-1/system.d/evil.conf
units_on_request usr/lib/systemd/system/evil.socket
units_on_request usr/lib/systemd/system/evil.timer
units_on_request usr/lib/systemd/system/evil.path
units_on_request usr/lib/systemd/system/evil.automount
units_on_request usr/lib/systemd/system/sockets.target.wants/evil.socket
drop_ins etc/systemd/system.conf.d/evil.conf
drop_ins etc/systemd/resolved.conf.d/evil.conf
drop_ins usr/lib/systemd/system.conf.d/evil.conf
drop_ins usr/lib/systemd/system/good.service.d/evil.conf
drop_ins usr/lib/systemd/user/evil.service.d/evil.conf
udev_rules etc/udev/rules.d/evil.rules
udev_rules etc/udev/hwdb.d/evil.hwdb
udev_rules usr/lib/udev/rules.d/evil.rules
udev_rules usr/lib/udev/evil_id
tmpfiles etc/tmpfiles.d/evil.conf
tmpfiles usr/lib/tmpfiles.d/evil.conf
tmpfiles etc/sysusers.d/evil.conf
tmpfiles usr/lib/sysusers.d/evil.conf
kernel_settings etc/sysctl.d/evil.conf
kernel_settings etc/sysctl.conf
kernel_settings usr/lib/sysctl.d/evil.conf
kernel_settings etc/modprobe.d/evil.conf
kernel_settings usr/lib/modprobe.d/evil.conf
kernel_settings etc/modules
kernel_settings etc/modules-load.d/evil.conf
kernel_settings usr/lib/modules-load.d/evil.conf
kernel_settings etc/binfmt.d/evil.conf
kernel_settings usr/lib/binfmt.d/evil.conf
network etc/systemd/network/evil.network
network usr/lib/systemd/network/evil.netdev
name_services etc/nsswitch.conf
name_services usr/lib/x86_64-linux-gnu/libnss_evil.so.2
name_services etc/hosts
name_services etc/host.conf
name_services etc/gai.conf
environment etc/environment
environment etc/environment.d/evil.conf
environment usr/lib/environment.d/evil.conf
environment etc/profile
environment etc/profile.d/evil.sh
environment usr/lib/systemd/profile.d/evil.sh
environment etc/default/evil
environment etc/security/pam_env.conf
environment etc/pam.conf
environment etc/pam.d/evil
environment usr/lib/pam.d/evil
environment etc/X11/xinit/xinitrc
environment etc/init.d/evil
environment etc/inittab
environment etc/rc.local
environment etc/crontab
environment etc/cron.d/evil
hooks usr/lib/systemd/system-shutdown/evil
hooks usr/lib/systemd/system-sleep/evil
hooks usr/lib/systemd/system-generators/evil
hooks usr/lib/systemd/system-environment-generators/evil
hooks usr/lib/systemd/user-generators/evil
hooks usr/lib/systemd/user-environment-generators/evil
hooks etc/systemd/system-generators/evil
hooks etc/systemd/system-environment-generators/evil
hooks etc/systemd/user-environment-generators/evil
hooks etc/systemd/user-generators/evil
hooks usr/lib/kernel/install.d/evil
hooks etc/kernel/install.d/evil
hooks usr/lib/networkd-dispatcher/evil
hooks etc/networkd-dispatcher/evil
hooks etc/network/interfaces
hooks etc/dhcp/dhclient-exit-hooks.d/evil
hooks etc/ppp/ip-up
hooks usr/lib/repart.d/evil.conf
hooks etc/repart.d/evil.conf
hooks usr/lib/sysupdate.d/evil.conf
hooks etc/sysupdate.d/evil.conf
hooks usr/lib/systemd/portable/profile/evil
hooks usr/lib/pcrlock.d/evil.pcrlock
hooks etc/containerd/evil.toml
hooks etc/cni/net.d/evil.conf
hooks etc/credstore/evil
hooks etc/credstore.encrypted/evil
hooks usr/lib/credstore/evil
hooks usr/lib/credstore.encrypted/evil
units_of_etc etc/systemd/system/systemd-udevd.service
units_of_etc etc/systemd/system/evil.mount
units_of_etc etc/systemd/system/default.target
units_of_etc etc/systemd/system/evil.target
units_of_etc etc/systemd/system/dbus-org.freedesktop.evil1.service
units_of_etc etc/systemd/system/multi-user.target.wants/evil.service
units_of_etc etc/systemd/system/dbus.service.d/evil.conf
units_of_etc etc/systemd/system.control/evil.service
units_of_etc etc/systemd/system.attached/evil.service
units_of_etc etc/systemd/user/evil.service
units_of_etc etc/xdg/systemd/user/evil.service
units_of_etc etc/xdg/autostart/evil.desktop
settings etc/systemd/evil.conf
settings usr/lib/systemd/evil.conf
settings etc/systemd/system-preset/evil.preset
settings usr/lib/systemd/system-preset/evil.preset
settings etc/systemd/user-preset/evil.preset
settings usr/lib/systemd/user-preset/evil.preset
settings etc/systemd/ntp-units.d/evil.list
settings usr/lib/systemd/ntp-units.d/evil.list
settings etc/systemd/dnssd/evil.dnssd
settings usr/lib/systemd/dnssd/evil.dnssd
settings etc/dnssec-trust-anchors.d/evil.positive
settings usr/lib/dnssec-trust-anchors.d/evil.positive
usr_local usr/local/lib/systemd/system/evil.service
usr_local usr/local/lib/udev/rules.d/evil.rules
usr_local usr/local/lib/x86_64-linux-gnu/libc.so.6
usr_local usr/local/bin/evil
loader etc/ld.so.preload
loader etc/ld.so.conf
loader etc/ld.so.conf.d/evil.conf
loader etc/ld.so.cache
loader etc/suid-debug
loader usr/lib/glibc-hwcaps/x86-64-v3/libc.so.6
loader usr/lib/x86_64-linux-gnu/glibc-hwcaps/x86-64-v3/libc.so.6
loader usr/lib/x86_64-linux-gnu/libc_malloc_debug.so.0
plug_ins usr/lib/x86_64-linux-gnu/security/pam_evil.so
plug_ins usr/lib/security/pam_evil.so
plug_ins usr/lib/x86_64-linux-gnu/cryptsetup/libcryptsetup-token-evil.so
plug_ins usr/lib/x86_64-linux-gnu/ossl-modules/evil.so
plug_ins usr/lib/x86_64-linux-gnu/engines-3/evil.so
plug_ins usr/lib/ssl/openssl.cnf
plug_ins etc/ssl/openssl.cnf
plug_ins usr/lib/x86_64-linux-gnu/gconv/gconv-modules
plug_ins usr/lib/x86_64-linux-gnu/gconv/gconv-modules.d/evil.conf
plug_ins usr/lib/gconv/gconv-modules
plug_ins usr/lib/x86_64-linux-gnu/pkcs11/evil.so
plug_ins etc/pkcs11/modules/evil.module
plug_ins usr/share/p11-kit/modules/evil.module
plug_ins usr/lib/x86_64-linux-gnu/libtss2-tcti-evil.so.0
accounts etc/userdb/evil.user
accounts usr/lib/userdb/evil.user
accounts etc/polkit-1/rules.d/evil.rules
accounts usr/share/polkit-1/rules.d/evil.rules
accounts etc/sudoers
accounts etc/sudoers.d/evil
mounts etc/fstab
mounts etc/crypttab
mounts etc/veritytab
mounts etc/integritytab
mounts etc/mtab
mounts etc/extensions/evil.raw
mounts usr/lib/extensions/evil.raw
mounts etc/confexts/evil.raw
mounts usr/lib/confexts/evil.raw
";

/// One line of each kind in a place that is listed: file, text, and the finding.
const LINES: [(&str, &str, &str); 14] = [
    ("etc/udev/rules.d/1.rules", "A==\"b\" RUN+=\"/bin/evil\"", "udev: \"/bin/evil\""),
    ("etc/udev/rules.d/1.rules", "PROGRAM=\"/bin/evil\"", "udev: \"/bin/evil\""),
    ("etc/udev/rules.d/1.rules", "RUN{builtin}+=\"evil\"", "udev: \"builtin evil\""),
    ("etc/udev/rules.d/1.rules", "IMPORT{program}=\"/bin/evil\"", "udev: \"/bin/evil\""),
    ("etc/udev/rules.d/1.rules", "IMPORT{builtin}=\"evil\"", "udev: \"builtin evil\""),
    ("etc/udev/rules.d/1.rules", "IMPORT{file}=\"/evil\"", "udev: \"IMPORT{file} /evil\""),
    ("etc/udev/rules.d/1.rules", "IMPORT{cmdline}=\"evil\"", "udev: \"IMPORT{cmdline} evil\""),
    ("etc/udev/rules.d/1.rules", "IMPORT{db}=\"EVIL\"", "udev: \"IMPORT{db} EVIL\""),
    ("etc/udev/rules.d/1.rules", "IMPORT{parent}=\"EVIL\"", "udev: \"IMPORT{parent} EVIL\""),
    ("etc/udev/rules.d/1.rules", "ENV{SYSTEMD_WANTS}:=\"evil.service\"", "udev: \"ENV{SYSTEMD_WANTS} evil.service\""),
    (
        "etc/udev/rules.d/1.rules",
        "ENV{SYSTEMD_USER_WANTS}=\"evil.service\"",
        "udev: \"ENV{SYSTEMD_USER_WANTS} evil.service\"",
    ),
    ("usr/lib/systemd/system/default.target", "OnFailure=evil.service", "units: \"evil.service\""),
    ("usr/lib/systemd/system/basic.target.wants/evil.service", "-> ../evil.service", "units: \"evil.service\""),
    ("usr/lib/modprobe.d/aliases.conf", "install x /bin/evil", "modprobe_commands: \"/usr/lib/modprobe.d/aliases.conf"),
];

fn real() -> Activation {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    Activation::read(&folder.join("os/activation.toml")).unwrap()
}

fn planted() -> impl Iterator<Item = (&'static str, &'static str)> {
    PLANTED.lines().filter(|line| !line.is_empty()).map(|line| line.split_once(' ').unwrap())
}

/// A path that the real list allows is planted as a link to somewhere else, which it does not.
fn finds(activation: &Activation, kind: &str, path: &str) -> bool {
    let found = activation.differences(&tree(&[(path, "-> /evil")]), &BTreeSet::new()).unwrap();
    found.contains(&format!("{kind}: {:?} is not listed", format!("{path} -> /evil")))
}

#[test]
fn file_in_each_place_is_found_under_its_kind() {
    let missed: Vec<_> = planted().filter(|(kind, path)| !finds(&real(), kind, path)).collect();
    assert!(missed.is_empty(), "os/activation.toml does not cover {missed:#?}");
}

#[test]
fn each_place_and_kind_of_the_list_is_tried() {
    let real = real();
    for (name, kind) in &real.kinds {
        for folder in &kind.folders {
            let mut without = real.clone();
            let places = &mut without.kinds.get_mut(name).unwrap().folders;
            places.retain(|place| place != folder);
            let is_tried = planted().any(|(kind, path)| kind == name && !finds(&without, kind, path));
            assert!(is_tried, "nothing of PLANTED is in {folder} of {name} alone");
        }
        for ending in &kind.endings {
            let mut without = real.clone();
            without.kinds.get_mut(name).unwrap().endings.retain(|other| other != ending);
            // The last ending that is removed would let all names count.
            let is_tried =
                kind.endings.len() == 1 || planted().any(|(kind, path)| kind == name && !finds(&without, kind, path));
            assert!(is_tried, "nothing of PLANTED ends with {ending} of {name}");
        }
    }
}

#[test]
fn line_of_each_kind_is_found_with_the_real_list() {
    let evil = ("usr/lib/systemd/system/evil.service", "x");
    for (path, text, finding) in LINES {
        let default = ("usr/lib/systemd/system/default.target", "Wants=basic.target");
        let basic = ("usr/lib/systemd/system/basic.target", "x");
        let found = real().differences(&tree(&[evil, default, basic, (path, text)]), &BTreeSet::new()).unwrap();
        let is_found = found.iter().any(|line| line.starts_with(finding) && line.contains("is not listed"));
        assert!(is_found, "{path}: {text}: {found:#?}");
    }
}

#[test]
fn unit_with_a_place_to_write_and_execute_fails_with_the_real_list() {
    let default = ("usr/lib/systemd/system/default.target", "Wants=multi-user.target dbus.service");
    let service = ("usr/lib/systemd/system/dbus.service", "[Service]\nPrivateTmp=disconnected");
    let found = real().differences(&tree(&[default, service]), &BTreeSet::new()).unwrap();
    assert!(found.iter().any(|line| line.starts_with("execution: dbus.service: ")), "{found:#?}");
}
