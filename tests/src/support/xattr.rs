//! Extended attributes by path, without following a final symlink.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

/// Sets an attribute, whether or not it exists.
pub fn set_xattr(path: impl AsRef<Path>, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> io::Result<()> {
    set_xattr_with(path, name, value, 0)
}

/// Sets an attribute with `XATTR_CREATE` or `XATTR_REPLACE`.
pub fn set_xattr_with(
    path: impl AsRef<Path>,
    name: impl AsRef<[u8]>,
    value: impl AsRef<[u8]>,
    flags: i32,
) -> io::Result<()> {
    let (path, name, value) = (c_path(path.as_ref())?, CString::new(name.as_ref())?, value.as_ref());
    // SAFETY: both strings are NUL-terminated and `value` is readable for its length.
    let done =
        unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Returns the value of an attribute.
pub fn get_xattr(path: impl AsRef<Path>, name: impl AsRef<[u8]>) -> io::Result<Vec<u8>> {
    let (path, name) = (c_path(path.as_ref())?, CString::new(name.as_ref())?);
    sized(|buffer, capacity| {
        // SAFETY: both strings are NUL-terminated and `buffer` is writable for `capacity` bytes.
        unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), buffer.cast(), capacity) }
    })
}

/// Returns the names of all attributes, sorted.
pub fn list_xattrs(path: impl AsRef<Path>) -> io::Result<Vec<Vec<u8>>> {
    let path = c_path(path.as_ref())?;
    let list = sized(|buffer, capacity| {
        // SAFETY: the path is NUL-terminated and `buffer` is writable for `capacity` bytes.
        unsafe { libc::llistxattr(path.as_ptr(), buffer.cast(), capacity) }
    })?;
    let mut names: Vec<Vec<u8>> =
        list.split(|&byte| byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect();
    names.sort();
    Ok(names)
}

/// Removes an attribute.
pub fn remove_xattr(path: impl AsRef<Path>, name: impl AsRef<[u8]>) -> io::Result<()> {
    let (path, name) = (c_path(path.as_ref())?, CString::new(name.as_ref())?);
    // SAFETY: both strings are NUL-terminated.
    let done = unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Asks for the size, then for the bytes, again where they grew in between.
fn sized(call: impl Fn(*mut u8, usize) -> isize) -> io::Result<Vec<u8>> {
    loop {
        let wanted = usize::try_from(call(ptr::null_mut(), 0)).map_err(|_| io::Error::last_os_error())?;
        let mut buffer = vec![0; wanted];
        // A size of 0 would ask for the size once more.
        if wanted == 0 {
            return Ok(buffer);
        }
        match usize::try_from(call(buffer.as_mut_ptr(), wanted)) {
            Ok(got) => {
                buffer.truncate(got);
                return Ok(buffer);
            }
            Err(_) => {
                let err = io::Error::last_os_error();
                if err.raw_os_error() != Some(libc::ERANGE) {
                    return Err(err);
                }
            }
        }
    }
}

pub(super) fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}
