//! The maps, typed: records of accepted sockets, settings, counters.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use aya::maps::{MapData, MapError, PerCpuArray, SkStorage};
use interceptor_ebpf::{Address, REASONS, Reason, Record, STATE_CAPTURED, octets};
use serde::{Deserialize, Serialize};

use super::Origin;
use super::sys::Plain;

/// Records of accepted sockets.
#[derive(Clone, Debug)]
pub(super) struct Records(Arc<SkStorage<MapData, Plain<Record>>>);

impl Records {
    pub(super) fn new(map: SkStorage<MapData, Plain<Record>>) -> Self {
        Self(Arc::new(map))
    }

    /// What the kernel recorded for this accepted socket; nothing where it recorded nothing.
    pub(super) fn of(&self, socket: &impl AsRawFd) -> Result<Option<Origin>, MapError> {
        match self.0.get(socket, 0) {
            Ok(Plain(record)) => Ok(origin(&record)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// An [`Origin`] only from a record that is complete.
fn origin(record: &Record) -> Option<Origin> {
    (record.state == STATE_CAPTURED && record.tgid != 0 && record.cgroup != 0).then(|| Origin {
        destination: endpoint(record.address, record.port),
        pid: record.tgid,
        tid: record.tid,
        uid: record.uid,
        gid: record.gid,
        cgroup: record.cgroup,
        current_cgroup: record.current_cgroup,
        start_boottime: record.start_boottime,
        netns: record.netns,
        socket: record.socket,
        comm: name(&record.comm),
    })
}

/// An address as the kernel side writes it: IPv4 as mapped.
pub(super) fn endpoint(address: Address, port: u16) -> SocketAddr {
    (IpAddr::V6(Ipv6Addr::from(octets(address))).to_canonical(), port).into()
}

/// A thread's name up to the first zero, with anything that is not printable replaced.
pub(super) fn name(comm: &[u8; 16]) -> String {
    let text = comm.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// How often the kernel programs refused, since they were first loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Events that found the ring full.
    pub lost_events: u64,
    /// Refusals for want of settings.
    pub no_settings: u64,
    /// Sockets of a forbidden kind.
    pub socket_kinds: u64,
    /// Connects on sockets without a record.
    pub no_records: u64,
    /// UDP to others than the resolver.
    pub udp: u64,
    /// Binds.
    pub binds: u64,
    /// Socket options.
    pub socket_options: u64,
    /// Packets.
    pub packets: u64,
    /// Connects on sockets that are neither TCP nor UDP.
    pub connect_kinds: u64,
    /// Packets that came in.
    pub inbound: u64,
    /// Connects where the daemon does not listen.
    pub no_listeners: u64,
    /// Sockets of families that the programs do not see.
    pub socket_families: u64,
    /// Sockets that other cgroups handed over.
    pub descriptors: u64,
    /// Looks into processes of other cgroups.
    pub processes: u64,
    /// Uses of `bpf(2)`.
    pub bpf: u64,
    /// Connects and datagrams to local sockets of other cgroups.
    pub local_sockets: u64,
    /// Devices.
    pub devices: u64,
    /// New network interfaces.
    pub interfaces: u64,
}

impl Counters {
    pub(super) fn read(map: &PerCpuArray<MapData, u64>) -> Result<Self, MapError> {
        let mut sums = [0u64; REASONS];
        for (index, sum) in (0u32..).zip(&mut sums) {
            *sum = map.get(&index, 0)?.iter().fold(0, |sum, part| sum.wrapping_add(*part));
        }
        let [
            lost_events,
            no_settings,
            socket_kinds,
            no_records,
            udp,
            binds,
            socket_options,
            packets,
            connect_kinds,
            inbound,
            no_listeners,
            socket_families,
            descriptors,
            processes,
            bpf,
            local_sockets,
            devices,
            interfaces,
        ] = sums;
        Ok(Self {
            lost_events,
            no_settings,
            socket_kinds,
            no_records,
            udp,
            binds,
            socket_options,
            packets,
            connect_kinds,
            inbound,
            no_listeners,
            socket_families,
            descriptors,
            processes,
            bpf,
            local_sockets,
            devices,
            interfaces,
        })
    }
}

// The destructuring above follows this order.
const _: () = assert!(Reason::LostEvent as usize == 0 && Reason::Interface as usize == REASONS - 1);

#[cfg(test)]
mod tests {
    use super::*;
    use interceptor_ebpf::{STATE_LOCAL, mapped};

    fn record() -> Record {
        Record {
            state: STATE_CAPTURED,
            tgid: 7,
            cgroup: 9,
            address: mapped([10, 0, 0, 1]),
            port: 5432,
            comm: *b"psql\x1b\0\0\0\0\0\0\0\0\0\0\0",
            ..Record::default()
        }
    }

    #[test]
    fn a_record_becomes_an_origin_with_a_plain_address() {
        let origin = origin(&record()).unwrap();
        assert_eq!(origin.destination, "10.0.0.1:5432".parse().unwrap());
        assert_eq!(origin.comm, "psql\u{fffd}");
        let six = interceptor_ebpf::address(Ipv6Addr::LOCALHOST.octets());
        assert_eq!(endpoint(six, 1), "[::1]:1".parse().unwrap());
    }

    #[test]
    fn an_incomplete_record_is_none() {
        assert_eq!(origin(&Record { state: STATE_LOCAL, ..record() }), None);
        assert_eq!(origin(&Record { tgid: 0, ..record() }), None);
        assert_eq!(origin(&Record { cgroup: 0, ..record() }), None);
        assert_eq!(origin(&Record::default()), None);
    }
}
