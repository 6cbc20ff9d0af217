//! The only `unsafe` of capture: system calls that the libraries lack, and plain memory from the kernel.
//!
//! aya attaches cgroup programs but cannot replace the program of a pinned link; these calls can, for every kind.
#![expect(unsafe_code, reason = "raw system calls and plain memory, fenced here")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use aya::maps::{MapData, RingBuf};
use interceptor_ebpf::{Device, Event, Offsets, Record, Settings, Tuple};
use tokio::io::unix::AsyncFd;

const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_UPDATE: libc::c_int = 29;
const BPF_LINK_DETACH: libc::c_int = 34;
/// `FILEID_KERNFS`: an eight-byte id.
const HANDLE_KERNFS: libc::c_int = 0xfe;

/// A value that the kernel and we agree on byte by byte.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Plain<T: Copy>(pub(super) T);

// SAFETY: repr(C) integers and byte arrays without padding (asserted by size in the ABI); any bytes are a valid value.
unsafe impl aya::Pod for Plain<Record> {}
// SAFETY: as above.
unsafe impl aya::Pod for Plain<Settings> {}
// SAFETY: as above.
unsafe impl aya::Pod for Plain<Tuple> {}
// SAFETY: as above.
unsafe impl aya::Pod for Plain<Offsets> {}
// SAFETY: as above.
unsafe impl aya::Pod for Plain<Device> {}

/// The event at the start of a ring entry; nothing where the entry is shorter.
pub(super) fn event(bytes: &[u8]) -> Option<Event> {
    if bytes.len() < size_of::<Event>() {
        return None;
    }
    // SAFETY: the length was checked, alignment is not assumed, and any bytes are a valid Event.
    Some(unsafe { bytes.as_ptr().cast::<Event>().read_unaligned() })
}

/// Waits for a ring through the runtime.
pub(super) fn watch(ring: RingBuf<MapData>) -> io::Result<AsyncFd<RingBuf<MapData>>> {
    // SAFETY: the ring owns its descriptor, gives the same one each time, and closes it only when dropped, which the
    // returned value does after it has deregistered.
    Ok(unsafe { AsyncFd::register(ring) }?)
}

/// Attaches a program to a cgroup, next to whatever else is attached there.
pub(super) fn link_create(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<OwnedFd> {
    let attributes = [fd_word(program)?, fd_word(cgroup)?, attach_type, 0];
    bpf(BPF_LINK_CREATE, &attributes).and_then(owned)
}

/// Puts another program into a link, in one step: no packet and no call sees neither.
pub(super) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = [fd_word(link)?, fd_word(program)?, 0, 0];
    bpf(BPF_LINK_UPDATE, &attributes).map(drop)
}

/// Takes the program away from the cgroup at once: without this the kernel does it when it has time for that, after the
/// last pin has gone (Linux 5.9).
pub(super) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    bpf(BPF_LINK_DETACH, &[fd_word(link)?]).map(drop)
}

#[repr(C)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Pins an object at a path on a bpffs.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = Object { path: address(&path), fd: fd_word(object)?, flags: 0 };
    bpf(BPF_OBJ_PIN, &attributes).map(drop)
}

/// Opens a pinned object.
pub(super) fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = Object { path: address(&path), fd: 0, flags: 0 };
    bpf(BPF_OBJ_GET, &attributes).and_then(owned)
}

/// Programs that are attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attached {
    /// How they share the place.
    pub(super) flags: u32,
    /// Their ids.
    pub(super) programs: Vec<u32>,
}

/// Programs at one hook that are looked at; the kernel allows no more at one cgroup.
const MAX_PROGRAMS: usize = 64;

/// The programs that are attached to a cgroup itself for this hook.
pub(super) fn attached(cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<Attached> {
    #[repr(C)]
    struct Query {
        cgroup: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        ids: u64,
        count: u32,
        padding: u32,
    }
    let mut ids = [0u32; MAX_PROGRAMS];
    let place = u64::try_from(ids.as_mut_ptr().expose_provenance()).map_err(io::Error::other)?;
    let count = u32::try_from(MAX_PROGRAMS).map_err(io::Error::other)?;
    let cgroup = fd_word(cgroup)?;
    let mut query = Query { cgroup, attach_type, query_flags: 0, attach_flags: 0, ids: place, count, padding: 0 };
    // SAFETY: the attributes are initialised and laid out as the command wants them, the ids have room for as many as they
    // say, and both outlive the call; the kernel writes to nothing else.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, std::ptr::from_mut(&mut query), size_of::<Query>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let found = usize::try_from(query.count).map_err(io::Error::other)?;
    Ok(Attached { flags: query.attach_flags, programs: ids.get(..found).unwrap_or_default().to_vec() })
}

/// Opens the cgroup with this id.
pub(super) fn open_cgroup(mount: BorrowedFd<'_>, id: u64) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Handle {
        bytes: libc::c_uint,
        kind: libc::c_int,
        id: [u8; 8],
    }
    let mut handle = Handle { bytes: 8, kind: HANDLE_KERNFS, id: id.to_ne_bytes() };
    // SAFETY: the handle is a `struct file_handle` followed by the eight bytes that it announces, and outlives the
    // call; the mount's descriptor is open.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            mount.as_raw_fd(),
            &raw mut handle,
            libc::O_PATH | libc::O_CLOEXEC | libc::O_DIRECTORY,
        )
    };
    if fd < 0 { Err(io::Error::last_os_error()) } else { owned(fd) }
}

/// Takes over the descriptors that the service manager handed to this process, with their names. Once: later calls get none.
pub(super) fn handed_over() -> io::Result<Vec<(String, OwnedFd)>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    // SAFETY: the manager opened these for this process (LISTEN_PID) before it started, nothing else here takes them over,
    // and the flag above lets that happen once.
    let owned = sd_notify::listen_fds_with_names()?.map(|(fd, name)| (name, unsafe { OwnedFd::from_raw_fd(fd) }));
    Ok(owned.collect())
}

/// Whether a thread has the descriptors of its process. Not where that cannot be told.
pub(super) fn share_descriptors(process: u32, thread: u32) -> bool {
    /// `KCMP_FILES`.
    const FILES: libc::c_int = 2;
    // SAFETY: takes numbers alone, and compares.
    (unsafe { libc::syscall(libc::SYS_kcmp, process, thread, FILES, 0, 0) }) == 0
}

/// A connection that was accepted, now owned.
pub(super) fn accepted(descriptor: RawFd) -> OwnedFd {
    // SAFETY: as below.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// Descriptors that came with a message, now owned.
pub(super) fn received(descriptors: Vec<RawFd>) -> Vec<OwnedFd> {
    // SAFETY: the kernel has just made them for this process, and nobody else knows of them.
    descriptors.into_iter().map(|descriptor| unsafe { OwnedFd::from_raw_fd(descriptor) }).collect()
}

/// A socket option that is a plain number, of four or eight bytes.
pub(super) fn socket_option(socket: BorrowedFd<'_>, name: libc::c_int) -> io::Result<u64> {
    let mut value = [0u8; 8];
    let mut length: libc::socklen_t = 8;
    // SAFETY: the kernel writes at most the given eight bytes, and both pointers are to locals that outlive the call.
    let failed = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, value.as_mut_ptr().cast(), &raw mut length)
    };
    if failed < 0 {
        return Err(io::Error::last_os_error());
    }
    match length {
        4 => Ok(u32::from_ne_bytes([value[0], value[1], value[2], value[3]]).into()),
        8 => Ok(u64::from_ne_bytes(value)),
        _ => Err(io::Error::other("an option of another size")),
    }
}

fn fd_word(fd: BorrowedFd<'_>) -> io::Result<u32> {
    u32::try_from(fd.as_raw_fd()).map_err(io::Error::other)
}

fn address(path: &CString) -> u64 {
    u64::try_from(path.as_ptr().addr()).unwrap_or(0)
}

fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_long> {
    // SAFETY: the attributes are initialised, without padding, laid out as the command wants them, and outlive the
    // call; the kernel reads no more than the given size and takes the rest as zero.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = libc::c_int::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel just returned this descriptor to us, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
