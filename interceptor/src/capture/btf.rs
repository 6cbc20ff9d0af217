//! Offsets of kernel structure members from the kernel's own type information (BTF).
//!
//! The programs read the start time of a process, and the cgroups of tasks and sockets, at these offsets, which differ between
//! kernels. Bounded and total: bad data means "not found".

use std::{fs, io};

use interceptor_ebpf::Offsets;

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
/// Anonymous structures within one another at most.
const MAX_DEPTH: u32 = 4;

/// Byte offsets of `start_boottime` and `group_leader` in `task_struct`; zeros where the kernel does not tell.
pub(super) fn task_offsets() -> io::Result<(u32, u32)> {
    let bytes = fs::read(VMLINUX)?;
    Ok(Types::new(&bytes).and_then(|types| types.task_offsets()).unwrap_or((0, 0)))
}

/// What the hooks of security modules look at; nothing where the kernel does not tell all of it.
pub(super) fn module_offsets() -> io::Result<Option<Offsets>> {
    let bytes = fs::read(VMLINUX)?;
    Ok(Types::new(&bytes).and_then(|types| types.module_offsets()))
}

struct Types<'a> {
    strings: &'a [u8],
    /// Each type's bytes from its header on; id 1 is first.
    types: Vec<&'a [u8]>,
}

impl<'a> Types<'a> {
    fn new(bytes: &'a [u8]) -> Option<Self> {
        if u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?) != MAGIC {
            return None;
        }
        let body = bytes.get(usize::try_from(word(bytes, 4)?).ok()?..)?;
        let part = |at: usize| {
            let start = usize::try_from(word(bytes, at)?).ok()?;
            body.get(start..start.checked_add(usize::try_from(word(bytes, at + 4)?).ok()?)?)
        };
        let (mut rest, strings) = (part(8)?, part(16)?);
        let mut types = Vec::new();
        while !rest.is_empty() {
            let info = word(rest, 4)?;
            let count = usize::try_from(info & 0xffff).ok()?;
            let extra = match (info >> 24) & 0x1f {
                1 | 14 | 17 => 4,
                3 => 12,
                KIND_STRUCT | KIND_UNION | 15 | 19 => count * 12,
                6 | 13 => count * 8,
                2 | 7..=12 | 16 | 18 => 0,
                // The length of an unknown kind is unknown, and so is everything behind it.
                _ => return None,
            };
            types.push(rest);
            rest = rest.get(12 + extra..)?;
        }
        Some(Self { strings, types })
    }

    fn task_offsets(&self) -> Option<(u32, u32)> {
        Some((self.offset("task_struct", "start_boottime")?, self.offset("task_struct", "group_leader")?))
    }

    fn module_offsets(&self) -> Option<Offsets> {
        let data = self.offset("sock", "sk_cgrp_data")?;
        Some(Offsets {
            task_cgroups: self.offset("task_struct", "cgroups")?,
            set_cgroup: self.offset("css_set", "dfl_cgrp")?,
            cgroup_node: self.offset("cgroup", "kn")?,
            node_id: self.offset("kernfs_node", "id")?,
            socket_sock: self.offset("socket", "sk")?,
            sock_cgroup: data.checked_add(self.offset("sock_cgroup_data", "cgroup")?)?,
            file_inode: self.offset("file", "f_inode")?,
            inode_mode: self.offset("inode", "i_mode")?,
            file_private: self.offset("file", "private_data")?,
            sock_net: self.offset("sock", "__sk_common")?.checked_add(self.offset("sock_common", "skc_net")?)?,
            net_owner: self.offset("net", "user_ns")?,
            owner_level: self.offset("user_namespace", "level")?,
            message_length: self.offset("sk_buff", "len")?,
            message_data: self.offset("sk_buff", "data")?,
        })
    }

    /// Byte offset of a member of the structure of this name.
    fn offset(&self, structure: &str, member: &str) -> Option<u32> {
        let is_it = |header: &&&[u8]| kind(header) == Some(KIND_STRUCT) && self.is_named(header, 0, structure);
        self.member(self.types.iter().find(is_it)?, member, MAX_DEPTH)
    }

    /// Byte offset of a member, also inside anonymous structures.
    fn member(&self, header: &[u8], name: &str, depth: u32) -> Option<u32> {
        let info = word(header, 4)?;
        let count = usize::try_from(info & 0xffff).ok()?;
        for index in 0..count {
            let at = 12 + index * 12;
            let bits = word(header, at + 8)?;
            // With the kind flag, the upper byte is the width of a bit field.
            let bits = if info >> 31 == 1 { bits & 0x00ff_ffff } else { bits };
            if self.is_named(header, at, name) {
                return Some(bits / 8);
            }
            if word(header, at)? == 0 && depth > 0 {
                let id = usize::try_from(word(header, at + 4)?).ok()?;
                let inner = self.types.get(id.checked_sub(1)?)?;
                if matches!(kind(inner), Some(KIND_STRUCT | KIND_UNION))
                    && let Some(offset) = self.member(inner, name, depth - 1)
                {
                    return offset.checked_add(bits / 8);
                }
            }
        }
        None
    }

    fn is_named(&self, bytes: &[u8], at: usize, name: &str) -> bool {
        let found = word(bytes, at)
            .and_then(|offset| self.strings.get(usize::try_from(offset).ok()?..)?.get(..=name.len()))
            .and_then(<[u8]>::split_last);
        found == Some((&0, name.as_bytes()))
    }
}

fn kind(header: &[u8]) -> Option<u32> {
    Some((word(header, 4)? >> 24) & 0x1f)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One integer, an anonymous structure with `group_leader` at 8, and `task_struct` holding it at 16.
    fn sample() -> Vec<u8> {
        let strings = b"\0task_struct\0start_boottime\0group_leader\0";
        let types: [u32; 22] = [
            0,
            1 << 24,
            8,
            64, // 1: int
            0,
            (KIND_STRUCT << 24) | 1,
            16,
            28,
            1,
            64, // 2: anonymous { group_leader @ 8 }
            1,
            (KIND_STRUCT << 24) | 2,
            40,
            13,
            1,
            32 * 8,
            0,
            2,
            16 * 8, // 3: task_struct
            0,
            2 << 24,
            1, // 4: a pointer
        ];
        let mut bytes = Vec::new();
        bytes.extend(MAGIC.to_ne_bytes());
        bytes.extend([1, 0]);
        let length = u32::try_from(types.len() * 4).unwrap();
        for word in [24, 0, length, length, u32::try_from(strings.len()).unwrap()] {
            bytes.extend(u32::to_ne_bytes(word));
        }
        types.iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn members_are_found_also_in_anonymous_structures() {
        assert_eq!(Types::new(&sample()).unwrap().task_offsets(), Some((32, 24)));
    }

    #[test]
    fn any_truncation_is_not_found_rather_than_a_panic() {
        let sample = sample();
        for length in 0..sample.len() - 1 {
            let cut = sample.get(..length).unwrap();
            assert_eq!(Types::new(cut).and_then(|types| types.task_offsets()), None, "{length}");
        }
    }
}
