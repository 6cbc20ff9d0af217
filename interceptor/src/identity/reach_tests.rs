//! Held against the kernel: what an agent can open itself is opened for it, and nothing else.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

use super::*;
use crate::testing::draw::Draw;

const UIDS: [u32; 3] = [54_321, 54_322, 54_323];

fn opened(root: &Path, path: &str, who: Who) -> bool {
    let root: OwnedFd = fs::File::open(root).unwrap().into();
    open(&root, path, who).is_ok()
}

/// What the kernel says: it lets this thread open the file with that user's rights, or not.
fn permitted(path: &Path, who: Who) -> bool {
    let gid = setfsgid(Gid::from_raw(who.gid));
    let uid = setfsuid(Uid::from_raw(who.uid));
    let opened = fs::File::open(path).is_ok();
    setfsuid(uid);
    setfsgid(gid);
    opened
}

fn set_list(path: &Path, entries: &[(u16, u16, u32)]) {
    let mut list = VERSION.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        list.extend(tag.to_le_bytes());
        list.extend(permissions.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    xattr::set_access_list(&path, &list).unwrap();
}

#[test]
fn it_opens_what_the_kernel_would() {
    if !Uid::effective().is_root() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let folder = root.path().join("folder");
    fs::create_dir(&folder).unwrap();
    let file = folder.join("token");
    fs::write(&file, "t").unwrap();
    let mut draw = Draw::new(7);
    let (mut yes, mut no) = (0, 0);
    for round in 0..4000 {
        let mut pick = |bound: usize| draw.below(bound);
        for path in [&folder, &file] {
            let mut mode = u32::try_from(pick(0o1000)).unwrap();
            if path == &folder && pick(3) > 0 {
                mode |= 0o111;
            }
            chown(path, Some(UIDS[pick(3)]), Some(UIDS[pick(3)])).unwrap();
            xattr::remove_access_list(&CString::new(path.as_os_str().as_bytes()).unwrap());
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            if pick(2) == 0 {
                let mut bits = || u16::try_from(pick(8)).unwrap();
                let mut list = vec![(1, bits(), u32::MAX), (USER, bits(), UIDS[usize::from(bits() % 3)])];
                list.push((OWNING_GROUP, bits(), u32::MAX));
                list.push((GROUP, bits(), UIDS[usize::from(bits() % 3)]));
                list.push((MASK, bits() | 4, u32::MAX));
                list.push((OTHER, bits(), u32::MAX));
                set_list(path, &list);
            }
        }
        let who = Who { uid: UIDS[pick(3)], gid: UIDS[pick(3)] };
        let truth = permitted(&file, who);
        assert_eq!(opened(root.path(), "/folder/token", who), truth, "round {round}: {who:?}");
        if truth { yes += 1 } else { no += 1 }
    }
    assert!(yes > 300 && no > 300, "{yes} {no}");
}

#[test]
fn links_stay_within_the_root_and_lead_to_nothing_of_the_daemons() {
    if !Uid::effective().is_root() {
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    fs::set_permissions(outside.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(outside.path().join("secret"), "s").unwrap();
    let root = outside.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("token"), "t").unwrap();
    let who = Who { uid: UIDS[0], gid: UIDS[0] };
    let leads = |target: &str| {
        let link = root.join("link");
        let _absent = fs::remove_file(&link);
        symlink(target, &link).unwrap();
        opened(&root, "link", who)
    };
    assert!(leads("token") && leads("/token") && leads("../../token") && leads("/../token"));
    let secret = outside.path().join("secret");
    for target in [secret.to_str().unwrap(), "../secret", "/../secret", "link", "/etc/passwd", "token/x", "."] {
        assert!(!leads(target), "{target}");
    }
    // What the kernel makes up for whoever asks.
    let host: OwnedFd = fs::File::open("/").unwrap().into();
    for path in ["/proc/self/status", "/proc/self/cmdline", "/proc/self/root/etc/passwd"] {
        assert_eq!(open(&host, path, who).unwrap_err(), Errno::EACCES, "{path}");
    }
    assert!(open(&host, "/etc/passwd", who).is_ok());
    assert!(open(&host, "/etc/shadow", who).is_err());
}

#[test]
fn a_list_that_is_malformed_grants_nothing() {
    let who = Who { uid: 1, gid: 1 };
    for list in [&[][..], &[2, 0, 0], &[1, 0, 0, 0], &[2, 0, 0, 0, 32, 0, 7]] {
        assert_eq!(who.listed(list, 1), None, "{list:?}");
    }
}
