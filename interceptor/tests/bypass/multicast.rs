//! Joins of multicast groups: the kernel reports each on the wire by itself, so a choice of groups is a message.

use super::options::refused;
use super::row::{By, EPERM, Row, option};

pub(crate) fn rows() -> Vec<Row> {
    // The reports are the kernel's own packets: the fence does not see them.
    [four(), six()].into_iter().flatten().map(|row| row.closed_by("O")).collect()
}

fn four() -> Vec<Row> {
    vec![
        refused!("IP_ADD_MEMBERSHIP, UDP", 0, 35, "GROUP4 + ANY4 + struct.pack('=i', near())", "INET, UDP"),
        refused!("IP_ADD_MEMBERSHIP, TCP", 0, 35, "GROUP4 + ANY4 + struct.pack('=i', near())", "INET, TCP")
            .without_control(),
        refused!(
            "IP_ADD_SOURCE_MEMBERSHIP",
            0,
            39,
            "GROUP4 + socket.inet_aton(NEAR4) + socket.inet_aton(FAR4)",
            "INET, UDP"
        ),
        refused!("MCAST_JOIN_GROUP, UDP", 0, 42, "group_req(storage4('239.1.2.3'))", "INET, UDP"),
        refused!("MCAST_JOIN_GROUP, TCP", 0, 42, "group_req(storage4('239.1.2.3'))", "INET, TCP").without_control(),
        refused!("MCAST_JOIN_SOURCE_GROUP", 0, 46, "group_req(storage4('239.1.2.3')) + storage4(FAR4)", "INET, UDP"),
        refused!("IP_MSFILTER", 0, 41, "GROUP4 + ANY4 + struct.pack('=II', 1, 0)", "INET, UDP").without_control(),
        refused!("MCAST_MSFILTER", 0, 48, "group_req(storage4('239.1.2.3')) + bytes(8)", "INET, UDP").without_control(),
    ]
}

fn six() -> Vec<Row> {
    vec![
        refused!("IPV6_JOIN_GROUP, UDP", 41, 20, "GROUP6 + struct.pack('=i', near())", "INET6, UDP"),
        refused!("IPV6_JOIN_GROUP, TCP", 41, 20, "GROUP6 + struct.pack('=i', near())", "INET6, TCP").without_control(),
        refused!("MCAST_JOIN_GROUP, IPv6", 41, 42, "group_req(storage6('ff15::1234'))", "INET6, UDP"),
        refused!(
            "MCAST_JOIN_SOURCE_GROUP, IPv6",
            41,
            46,
            "group_req(storage6('ff15::1234')) + storage6(FAR6)",
            "INET6, UDP"
        ),
        refused!("MCAST_MSFILTER, IPv6", 41, 48, "group_req(storage6('ff15::1234')) + bytes(8)", "INET6, UDP")
            .without_control(),
        refused!(
            "IPV6_JOIN_ANYCAST",
            41,
            27,
            "socket.inet_pton(INET6, 'fd99::99') + struct.pack('=i', near())",
            "INET6, UDP"
        )
        .by(By::Root),
    ]
}
