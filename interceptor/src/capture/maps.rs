//! The maps, typed: records of accepted sockets, settings, counters.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, SkStorage};
use interceptor_ebpf::{
    Address, REASONS, Reason, Record, STATE_ASKED, STATE_CAPTURED, Settings, Tuple, address, mapped, octets,
};
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
            Ok(Plain(record)) => Ok(origin(&record, STATE_CAPTURED)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Who asked the relay, by where a question came from.
pub(super) trait Askers: fmt::Debug + Send + Sync {
    /// Who asked from `client` at the relay's address, in the network namespace with this cookie; nothing where the kernel
    /// recorded nobody.
    fn of(&self, netns: u64, client: SocketAddr, relay: SocketAddr) -> Result<Option<Origin>, MapError>;
}

/// Askers as the kernel recorded them.
#[derive(Debug)]
pub(super) struct KernelAskers(HashMap<MapData, Plain<Tuple>, Plain<Record>>);

impl KernelAskers {
    pub(super) fn new(map: HashMap<MapData, Plain<Tuple>, Plain<Record>>) -> Self {
        Self(map)
    }
}

impl Askers for KernelAskers {
    fn of(&self, netns: u64, client: SocketAddr, relay: SocketAddr) -> Result<Option<Origin>, MapError> {
        let tuple = Tuple {
            netns,
            source: words(client.ip()),
            destination: words(relay.ip()),
            source_port: client.port(),
            destination_port: relay.port(),
            reserved: 0,
        };
        match self.0.get(&Plain(tuple), 0) {
            Ok(Plain(record)) => Ok(origin(&record, STATE_ASKED)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// An address as the kernel side writes it.
fn words(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(v4) => mapped(v4.octets()),
        IpAddr::V6(v6) => address(v6.octets()),
    }
}

/// An [`Origin`] only from a record that is complete, and in the right state.
fn origin(record: &Record, state: u16) -> Option<Origin> {
    (record.state == state && record.tgid != 0 && record.cgroup != 0).then(|| Origin {
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

/// What the kernel programs go by, from the map that is pinned there.
///
/// # Errors
/// When it is not there, or nobody has written any settings: the programs then refuse everything.
pub(super) fn settings(pin: &Path) -> Result<Settings, MapError> {
    let map: Array<MapData, Plain<Settings>> = Array::try_from(Map::from_map_data(MapData::from_pin(pin)?)?)?;
    let Plain(settings) = map.get(&0, 0)?;
    if settings.daemon_cgroup == 0 || settings.proxy_port == 0 { Err(MapError::KeyNotFound) } else { Ok(settings) }
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
    use interceptor_ebpf::STATE_LOCAL;

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
        let origin = origin(&record(), STATE_CAPTURED).unwrap();
        assert_eq!(origin.destination, "10.0.0.1:5432".parse().unwrap());
        assert_eq!(origin.comm, "psql\u{fffd}");
        let six = interceptor_ebpf::address(Ipv6Addr::LOCALHOST.octets());
        assert_eq!(endpoint(six, 1), "[::1]:1".parse().unwrap());
    }

    #[test]
    fn an_incomplete_record_is_none() {
        let captured = |record| origin(&record, STATE_CAPTURED);
        assert_eq!(captured(Record { state: STATE_LOCAL, ..record() }), None);
        assert_eq!(captured(Record { state: STATE_ASKED, ..record() }), None);
        assert_eq!(captured(Record { tgid: 0, ..record() }), None);
        assert_eq!(captured(Record { cgroup: 0, ..record() }), None);
        assert_eq!(origin(&Record::default(), STATE_CAPTURED), None);
    }
}
