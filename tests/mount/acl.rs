//! POSIX access control lists, through the attributes that setfacl and getfacl use.

use std::fs::{self, File};

use durdir_tests::support::*;
use durdir_tests::{assert_errno, lower};

use AclTag::{Group, GroupObj, Mask, Other, User as Named, UserObj};

const ANN: User = User::ANN;
const BOB: User = User::BOB;

/// rw for the owner, r for Ann, nothing for the rest.
fn readable_by_ann() -> Acl {
    Acl::of(&[(UserObj, 6), (Named(ANN.uid), 4), (GroupObj, 0), (Mask, 4), (Other, 0)])
}

/// What new children get: rwx for Ann and for a group, r for others.
fn inherited() -> Acl {
    Acl::of(&[(UserObj, 7), (Named(ANN.uid), 7), (GroupObj, 5), (Group(7001), 7), (Mask, 7), (Other, 4)])
}

#[test]
fn named_user_gets_access_and_others_do_not() {
    on_both(lower! { "file" => file("x").mode(0o600) }, |mount| {
        readable_by_ann().set(mount.path("file"), Acl::ACCESS).unwrap();
        as_user(ANN, || {
            assert!(File::open(mount.path("file")).is_ok());
            assert_errno!(open(mount.path("file"), libc::O_WRONLY, 0), EACCES);
        });
        as_user(BOB, || assert_errno!(File::open(mount.path("file")), EACCES));
    });
}

#[test]
fn named_group_gets_access() {
    on_both(lower! { "file" => file("x").mode(0o600) }, |mount| {
        let acl = Acl::of(&[(UserObj, 6), (GroupObj, 0), (Group(7001), 6), (Mask, 6), (Other, 0)]);
        acl.set(mount.path("file"), Acl::ACCESS).unwrap();
        as_user(BOB.in_groups(&[7001]), || fs::write(mount.path("file"), "by the group").unwrap());
        as_user(BOB, || assert_errno!(File::open(mount.path("file")), EACCES));
        assert_eq!(mount.text("file"), "by the group");
    });
}

#[test]
fn list_reads_back_as_it_was_set_and_after_a_restart() {
    let mount = Mount::over(lower! { "file" => file("x").mode(0o600), "d" => dir() });
    readable_by_ann().set(mount.path("file"), Acl::ACCESS).unwrap();
    inherited().set(mount.path("d"), Acl::DEFAULT).unwrap();
    let mount = mount.restart();
    assert_eq!(Acl::get(mount.path("file"), Acl::ACCESS).unwrap(), readable_by_ann());
    assert_eq!(Acl::get(mount.path("d"), Acl::DEFAULT).unwrap(), inherited());
    as_user(ANN, || assert!(File::open(mount.path("file")).is_ok()));
}

#[test]
fn group_bits_of_the_mode_are_the_mask() {
    on_both(lower! { "file" => file("x").mode(0o600) }, |mount| {
        Acl::of(&[(UserObj, 6), (Named(ANN.uid), 6), (GroupObj, 0), (Mask, 6), (Other, 0)])
            .set(mount.path("file"), Acl::ACCESS)
            .unwrap();
        assert_eq!(mount.mode("file"), 0o660);
        chmod(mount.path("file"), 0o640).unwrap();
        let acl = Acl::get(mount.path("file"), Acl::ACCESS).unwrap();
        assert_eq!(
            (acl.perm(Mask), acl.perm(Named(ANN.uid)), acl.perm(GroupObj)),
            (Some(4), Some(6), Some(0))
        );
        as_user(ANN, || {
            assert!(File::open(mount.path("file")).is_ok());
            assert_errno!(open(mount.path("file"), libc::O_WRONLY, 0), EACCES);
        });
        chmod(mount.path("file"), 0o705).unwrap();
        let acl = Acl::get(mount.path("file"), Acl::ACCESS).unwrap();
        assert_eq!((acl.perm(UserObj), acl.perm(Mask), acl.perm(Other)), (Some(7), Some(0), Some(5)));
    });
}

#[test]
fn list_that_says_no_more_than_a_mode_is_just_the_mode() {
    on_both(lower! { "file" => file("x").mode(0o600) }, |mount| {
        Acl::of(&[(UserObj, 7), (GroupObj, 5), (Other, 1)]).set(mount.path("file"), Acl::ACCESS).unwrap();
        assert_eq!(mount.mode("file"), 0o751);
        assert_errno!(get_xattr(mount.path("file"), Acl::ACCESS), ENODATA);
    });
}

#[test]
fn removing_the_list_leaves_the_mode() {
    on_both(lower! { "file" => file("x").mode(0o600) }, |mount| {
        readable_by_ann().set(mount.path("file"), Acl::ACCESS).unwrap();
        remove_xattr(mount.path("file"), Acl::ACCESS).unwrap();
        assert_errno!(get_xattr(mount.path("file"), Acl::ACCESS), ENODATA);
        as_user(ANN, || assert!(get_xattr(mount.path("file"), Acl::ACCESS).is_err()));
    });
}

#[test]
fn new_file_inherits_the_default_list_instead_of_the_umask() {
    on_both(lower! { "d" => dir().mode(0o777) }, |mount| {
        inherited().set(mount.path("d"), Acl::DEFAULT).unwrap();
        with_umask(0o077, || {
            drop(open(mount.path("d/file"), libc::O_CREAT | libc::O_WRONLY, 0o666).unwrap())
        });
        let acl = Acl::get(mount.path("d/file"), Acl::ACCESS).unwrap();
        assert_eq!(
            (acl.perm(UserObj), acl.perm(Named(ANN.uid)), acl.perm(GroupObj)),
            (Some(6), Some(7), Some(5))
        );
        assert_eq!((acl.perm(Group(7001)), acl.perm(Mask), acl.perm(Other)), (Some(7), Some(6), Some(4)));
        assert_eq!(mount.mode("d/file"), 0o664);
        assert_errno!(get_xattr(mount.path("d/file"), Acl::DEFAULT), ENODATA | EACCES | EOPNOTSUPP);
        as_user(ANN, || drop(open(mount.path("d/file"), libc::O_RDWR, 0).unwrap()));
    });
}

#[test]
fn new_directory_inherits_both_lists() {
    on_both(lower! { "d" => dir().mode(0o777) }, |mount| {
        inherited().set(mount.path("d"), Acl::DEFAULT).unwrap();
        with_umask(0o077, || mkdir(mount.path("d/sub"), 0o755).unwrap());
        assert_eq!(Acl::get(mount.path("d/sub"), Acl::DEFAULT).unwrap(), inherited());
        let access = Acl::get(mount.path("d/sub"), Acl::ACCESS).unwrap();
        assert_eq!(
            (access.perm(UserObj), access.perm(Mask), access.perm(Other)),
            (Some(7), Some(5), Some(4))
        );
        mkfifo(mount.path("d/sub/pipe"), 0o666).unwrap();
        assert_eq!(Acl::get(mount.path("d/sub/pipe"), Acl::ACCESS).unwrap().perm(Mask), Some(6));
        std::os::unix::fs::symlink("x", mount.path("d/sub/link")).unwrap();
        assert_eq!(mount.mode("d/sub/link"), 0o777);
    });
}

#[test]
fn default_list_that_says_no_more_than_a_mode_gives_just_a_mode() {
    on_both(lower! { "d" => dir() }, |mount| {
        Acl::of(&[(UserObj, 7), (GroupObj, 5), (Other, 0)]).set(mount.path("d"), Acl::DEFAULT).unwrap();
        with_umask(0, || drop(open(mount.path("d/file"), libc::O_CREAT | libc::O_WRONLY, 0o666).unwrap()));
        assert_eq!(mount.mode("d/file"), 0o640);
        assert_errno!(get_xattr(mount.path("d/file"), Acl::ACCESS), ENODATA);
    });
}

#[test]
fn only_the_owner_sets_a_list() {
    on_both(lower! { "file" => file("x").mode(0o666).owner(ANN.uid, ANN.gid) }, |mount| {
        as_user(BOB, || assert_errno!(readable_by_ann().set(mount.path("file"), Acl::ACCESS), EPERM));
        as_user(ANN, || readable_by_ann().set(mount.path("file"), Acl::ACCESS).unwrap());
    });
}

#[test]
fn nonsense_is_refused() {
    on_both(lower! { "file" => "x", "l" => symlink_to("file") }, |mount| {
        assert_errno!(set_xattr(mount.path("file"), Acl::ACCESS, "not a list at all"), EINVAL | EOPNOTSUPP);
        let without_mask = Acl::of(&[(UserObj, 6), (Named(1), 6), (GroupObj, 0), (Other, 0)]);
        assert_errno!(without_mask.set(mount.path("file"), Acl::ACCESS), EINVAL);
        assert_errno!(inherited().set(mount.path("file"), Acl::DEFAULT), EACCES);
        assert_errno!(readable_by_ann().set(mount.path("l"), Acl::ACCESS), EOPNOTSUPP);
    });
}

#[test]
fn lists_of_a_lower_are_obeyed() {
    let mut encoded = Vec::new();
    // Borrow the encoding from a file that has such a list.
    let sample = tempfile::NamedTempFile::new().unwrap();
    readable_by_ann().set(sample.path(), Acl::ACCESS).unwrap();
    encoded.extend(get_xattr(sample.path(), Acl::ACCESS).unwrap());
    let mount = Mount::over(lower! { "file" => file("x").mode(0o600).xattr(Acl::ACCESS, &encoded) });
    // The layout sets the mode last, which takes the mask away.
    chmod(mount.path("file"), 0o640).unwrap();
    as_user(ANN, || assert!(File::open(mount.path("file")).is_ok()));
    as_user(BOB, || assert_errno!(File::open(mount.path("file")), EACCES));
}
