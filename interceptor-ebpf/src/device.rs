//! Devices: the usual harmless ones, and those that the operator names. A device is a way out that no socket hook sees:
//! `/dev/vhost-vsock`, `/dev/net/tun` and others do what whoever opens them says.

use core::ptr::{addr_of, read_volatile};

use aya_ebpf::macros::cgroup_device;
use aya_ebpf::programs::DeviceContext;
use interceptor_ebpf::{CHARACTER_DEVICE, Device, Reason};

use crate::event;
use crate::maps::DEVICES;

#[cgroup_device]
pub fn device(ctx: DeviceContext) -> i32 {
    // SAFETY: the kernel passes a valid context.
    let (access, major, minor) = unsafe {
        (
            read_volatile(addr_of!((*ctx.device).access_type)),
            read_volatile(addr_of!((*ctx.device).major)),
            read_volatile(addr_of!((*ctx.device).minor)),
        )
    };
    let asked = Device { kind: access & 0xffff, major, minor };
    // SAFETY: the value is only looked at for being there.
    if is_usual(&asked) || unsafe { DEVICES.get(&asked) }.is_some() {
        return 1;
    }
    event::refuse_other(Reason::Device, access, (u64::from(major) << 32) | u64::from(minor));
    0
}

/// What container runtimes give as well: null, zero, full, random, urandom, and terminals.
#[inline(always)]
fn is_usual(device: &Device) -> bool {
    device.kind == CHARACTER_DEVICE
        && match (device.major, device.minor) {
            (1, 3 | 5 | 7 | 8 | 9) | (5, 0..=2) => true,
            (136..=143, _) => true,
            _ => false,
        }
}
