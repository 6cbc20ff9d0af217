//! Socket options that lead around the capture, and headers that they make.

use super::row::{By, EPERM, Row, option};

/// The row of an option that is refused.
macro_rules! refused {
    ($name:literal, $level:literal, $number:literal, $value:literal, $rest:literal) => {
        Row::python($name, concat!("return option(", $level, ", ", $number, ", ", $value, ", ", $rest, ")"))
            .errno(EPERM, option($level, $number))
            .closed_by("O, E")
    };
}
pub(crate) use refused;

pub(crate) fn rows() -> Vec<Row> {
    [four(), six(), policies()].into_iter().flatten().collect()
}

fn four() -> Vec<Row> {
    vec![
        refused!("IP_OPTIONS: loose source route, TCP", 0, 4, "LSRR", "INET, TCP").by(By::Container),
        refused!("IP_OPTIONS: loose source route, UDP", 0, 4, "LSRR", "INET, UDP").by(By::Container),
        refused!("IP_OPTIONS: loose source route, TCP over an IPv6 socket", 0, 4, "LSRR", "INET6, TCP")
            .by(By::Container),
        Row::program("IP_OPTIONS by io_uring", &["raw", "uring-option"])
            .by(By::Root)
            .errno(EPERM, option(0, 4))
            .closed_by("O, E")
            .may_be_absent(),
        refused!("IP_HDRINCL", 0, 3, "1", "INET, UDP").without_control(),
        refused!("IP_TRANSPARENT", 0, 19, "1", "INET, TCP").by(By::Root),
        refused!("IP_UNICAST_IF", 0, 50, "struct.pack('!I', near())", "INET, UDP"),
        refused!("IP_UNICAST_IF, TCP", 0, 50, "struct.pack('!I', near())", "INET, TCP"),
        refused!("SO_MARK", 1, 36, "1", "INET, TCP").by(By::Root),
        refused!("SO_BINDTOIFINDEX", 1, 62, "near()", "INET, TCP"),
        refused!("TCP_REPAIR", 6, 19, "1", "INET, TCP").by(By::Root),
        refused!("UDP_ENCAP", 17, 100, "2", "INET, UDP"),
    ]
}

fn six() -> Vec<Row> {
    vec![
        refused!("IPV6_RTHDR: segment routing header, TCP", 41, 57, "SRH", "INET6, TCP"),
        refused!("IPV6_RTHDR: segment routing header, UDP", 41, 57, "SRH", "INET6, UDP"),
        refused!("IPV6_HOPOPTS", 41, 54, "PAD", "INET6, TCP").by(By::Container),
        refused!("IPV6_RTHDRDSTOPTS", 41, 55, "PAD", "INET6, TCP").by(By::Container),
        refused!("IPV6_DSTOPTS", 41, 59, "PAD", "INET6, TCP").by(By::Container),
        refused!("IPV6_2292PKTOPTIONS", 41, 6, "struct.pack('=Qiiii', 20, 41, 52, 5, 0)", "INET6, UDP"),
        refused!("IPV6_2292HOPOPTS", 41, 3, "1", "INET6, UDP"),
        refused!("IPV6_2292DSTOPTS", 41, 4, "1", "INET6, UDP"),
        refused!("IPV6_2292RTHDR", 41, 5, "1", "INET6, UDP"),
        refused!("IPV6_HDRINCL", 41, 36, "1", "INET6, UDP").without_control(),
        refused!("IPV6_TRANSPARENT", 41, 75, "1", "INET6, TCP").by(By::Root),
        refused!("IPV6_UNICAST_IF", 41, 76, "struct.pack('!I', near())", "INET6, UDP"),
    ]
}

/// A policy that turns what the socket sends into something else.
fn policies() -> Vec<Row> {
    vec![
        refused!("IP_XFRM_POLICY", 0, 17, "bytes(168)", "INET, UDP").by(By::Root).without_control(),
        refused!("IP_IPSEC_POLICY", 0, 16, "bytes(16)", "INET, UDP").by(By::Root).without_control(),
        refused!("IPV6_XFRM_POLICY", 41, 35, "bytes(168)", "INET6, UDP").by(By::Root).without_control(),
        refused!("IPV6_IPSEC_POLICY", 41, 34, "bytes(16)", "INET6, UDP").by(By::Root).without_control(),
    ]
}
