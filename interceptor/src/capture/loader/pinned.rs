//! The pinned maps: their shapes, and the settings in one of them.

use std::net::SocketAddr;

use aya::maps::{Array, Map, MapData, MapError};
use interceptor_ebpf::{
    Device, EVENT_BYTES, Event, MAX_ASKERS, MAX_DEVICES, MAX_HANDSHAKES, MAX_LOCAL_PEERS, MAX_PACES, Mark, Pace,
    REASONS, Record, Settings, Tuple, map,
};

use super::super::pins::Pins;
use super::super::sys::Plain;
use super::super::{Listener, btf, dns};
use super::CaptureError;

pub(super) fn check_shapes(pins: &Pins) -> Result<(), CaptureError> {
    for (name, key, value, entries) in shapes() {
        let info = MapData::from_pin(pins.map(name))?.info()?;
        let entries_fit = entries.is_none_or(|entries| usize::try_from(info.max_entries()) == Ok(entries));
        let fits = |actual: u32, expected: usize| usize::try_from(actual) == Ok(expected);
        if !fits(info.key_size(), key) || !fits(info.value_size(), value) || !entries_fit {
            return Err(CaptureError::MapShape(name));
        }
    }
    Ok(())
}

/// Key size, value size, entries of each map. A pin of the right name but another shape must not be taken up.
const fn shapes() -> [(&'static str, usize, usize, Option<usize>); 11] {
    [
        (map::SETTINGS, 4, size_of::<Settings>(), Some(1)),
        (map::SOCKETS, 4, size_of::<Record>(), None),
        (map::ACCEPTED, 4, size_of::<Record>(), None),
        (map::OWN, 4, size_of::<Mark>(), None),
        (map::HANDSHAKES, size_of::<Tuple>(), size_of::<Record>(), Some(MAX_HANDSHAKES)),
        (map::ASKERS, size_of::<Tuple>(), size_of::<Record>(), Some(MAX_ASKERS)),
        (map::EVENTS, 0, 0, Some(EVENT_BYTES)),
        (map::COUNTERS, 4, 8, Some(REASONS)),
        (map::LOCAL_PEERS, 8, 4, Some(MAX_LOCAL_PEERS)),
        (map::PACES, 8, size_of::<Pace>(), Some(MAX_PACES)),
        (map::DEVICES, size_of::<Device>(), 4, Some(MAX_DEVICES)),
    ]
}

const _: () = assert!(size_of::<Event>() < EVENT_BYTES);

pub(in crate::capture) fn pinned_map(pins: &Pins, name: &str) -> Result<Map, MapError> {
    MapData::from_pin(pins.map(name)).and_then(Map::from_map_data)
}

pub(super) fn settings(
    daemon_cgroup: u64,
    listener: &Listener,
    relay: Option<&dns::Relay>,
) -> Result<Settings, CaptureError> {
    let (start_boottime_offset, group_leader_offset) = btf::task_offsets().map_err(CaptureError::Btf)?;
    let base = Settings {
        daemon_cgroup,
        home: listener.netns(),
        start_boottime_offset,
        group_leader_offset,
        proxy_port: listener.port(),
        ..Settings::default()
    };
    Ok(relay.map_or(base, |relay| Settings {
        resolver: words(relay.resolver()),
        resolver_port: relay.resolver().port(),
        dns_port: relay.port(),
        has_resolver: 1,
        ..base
    }))
}

fn words(address: SocketAddr) -> interceptor_ebpf::Address {
    match address {
        SocketAddr::V4(v4) => interceptor_ebpf::mapped(v4.ip().octets()),
        SocketAddr::V6(v6) => interceptor_ebpf::address(v6.ip().octets()),
    }
}

pub(super) fn write_settings(pins: &Pins, settings: &Settings) -> Result<(), CaptureError> {
    let mut map: Array<MapData, Plain<Settings>> = Array::try_from(pinned_map(pins, map::SETTINGS)?)?;
    Ok(map.set(0, Plain(*settings), 0)?)
}
