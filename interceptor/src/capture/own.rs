//! Marks on the sockets that the daemon listens on: what makes a socket the daemon's to the kernel programs.
//!
//! Only a process that may write to the map can mark a socket, and only one that it holds open: no agent can have one that
//! passes for the daemon's. A mark stays with its socket when the daemon ends and the service manager keeps the socket.

use std::os::fd::AsRawFd;

use aya::maps::{Map, MapData, MapError, SkStorage};
use interceptor_ebpf::{Mark, map};

use super::pins::Pins;

/// What a mark says: that there is one.
const MARKED: Mark = 1;

/// The map of marks.
#[derive(Debug)]
pub(super) struct Own(SkStorage<MapData, Mark>);

impl Own {
    pub(super) fn new(map: Map) -> Result<Self, MapError> {
        SkStorage::try_from(map).map(Self)
    }

    /// Marks a socket.
    pub(super) fn mark(&mut self, socket: &impl AsRawFd) -> Result<(), MapError> {
        self.0.insert(socket, MARKED, 0)
    }

    /// Whether this version, or another whose maps are still pinned, has marked the socket. What cannot be read is no mark.
    pub(super) fn has_marked(pins: &Pins, socket: &impl AsRawFd) -> bool {
        pins.maps_of_all_versions(map::OWN).into_iter().any(|path| {
            let opened = MapData::from_pin(path).and_then(Map::from_map_data).and_then(Self::new);
            opened.is_ok_and(|own| own.0.get(socket, 0).is_ok_and(|mark| mark == MARKED))
        })
    }
}
