//! Corpora of values that are found, and of near misses that are not; and what a scan costs.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;

static SCANNER: LazyLock<Scanner> = LazyLock::new(|| Scanner::new().unwrap());

fn scan(wanted: &[Detector], text: &str) -> Vec<(Detector, String)> {
    let mut set = DetectorSet::default();
    wanted.iter().for_each(|detector| set.insert(*detector));
    let mut work = Work::default();
    let found = SCANNER.scan(set, text.as_bytes(), &mut work);
    assert_eq!(found == Found::Spans, !work.spans().is_empty());
    work.spans().iter().map(|span| (span.detector, text.get(span.start..span.end).unwrap().to_owned())).collect()
}

/// Each value is found whole: alone, inside of text, in JSON and beside other signs.
fn finds(detector: Detector, values: &[&str]) {
    for value in values {
        for (before, after) in [
            ("", ""),
            ("see ", " now"),
            ("{\"a\":\"", "\"}"),
            ("(", ")"),
            ("x=", ";"),
            ("号码：", "。"),
            ("<b>", "</b>"),
        ] {
            let text = format!("{before}{value}{after}");
            assert_eq!(scan(&[detector], &text), [(detector, (*value).to_owned())], "in {text:?}");
        }
    }
}

fn finds_nothing(values: &[&str]) {
    for value in values {
        assert_eq!(scan(&Detector::ALL, value), [], "in {value:?}");
    }
}

proptest! {
    #[test]
    fn nothing_is_found_in_less_than_the_shortest(text in "[a@.c0-9+ -]{0,5}|[@.a-z]{5}") {
        prop_assert!(text.len() < SHORTEST);
        prop_assert_eq!(scan(&Detector::ALL, &text), []);
        prop_assert_eq!(scan(&[Detector::Email], "a@b.cc").len(), 1);
    }
}

#[test]
fn cards_are_found() {
    finds(
        Detector::Card,
        &[
            "4111111111111111",
            "4012888888881881",
            "4222222222222",
            "5555555555554444",
            "5105105105105100",
            "2223003122003222",
            "378282246310005",
            "6011111111111117",
            "6011000990139424",
            "30569309025904",
            "38520000023237",
            "3530111333300000",
            "6759649826438453",
            "4111 1111 1111 1111",
            "4111-1111-1111-1111",
            "4111.1111.1111.1111",
            "4111_1111_1111_1111",
            "4111\n1111\n1111\n1111",
            "4111 - 1111 - 1111 - 1111",
            "3782 822463 10005",
            "3056 930902 5904",
            "41111 11111 11111 1",
            "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1",
            // What a reader cannot tell from the first one.
            "４１１１１１１１１１１１１１１１",
            "4111\u{200b}1111\u{200b}1111\u{200b}1111",
            "4111\u{a0}1111\u{2009}1111\u{2011}1111",
            "٤١١١١١١١١١١١١١١١",
            "𝟒𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏",
            "41\u{ad}11\u{2060}1111\u{feff}1111\u{202e}1111",
        ],
    );
    for (text, card) in [
        ("PAN4111111111111111", "4111111111111111"),
        ("card_4111111111111111_x", "4111111111111111"),
        ("4111111111111111USD", "4111111111111111"),
        (";4111111111111111=25121011000", "4111111111111111"),
        ("2024 4111 1111 1111 1111", "4111 1111 1111 1111"),
        ("12/4111111111111111", "4111111111111111"),
    ] {
        assert_eq!(scan(&[Detector::Card], text), [(Detector::Card, card.to_owned())]);
    }
    let two = scan(&[Detector::Card], "4111111111111111 5555555555554444, 378282246310005");
    assert_eq!(two.len(), 3, "{two:?}");
}

#[test]
fn near_misses_are_left_alone() {
    finds_nothing(&[
        // Luhn, issuer, length.
        "4111111111111112",
        "9111111111111111",
        "41111111111111111111",
        "411111111111",
        "0000000000000000",
        // Order numbers, UUIDs, hashes, times, versions, addresses.
        "ORD-2024-000123456",
        "order 1000045678901234",
        "550e8400-e29b-41d4-a716-446655440000",
        "12345678-1234-1234-1234-123456789012",
        "a4111111111111111",
        "deadbeef4111111111111111",
        "4111111111111111abc",
        "da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "2024-01-15 12:30:45.123456+00",
        "2024-01-15T12:30:45Z",
        "1705321845123",
        "1705321845123456789",
        "20240115123045",
        "2024-01-15 2024-01-16 2024-01-17",
        "192.168.100.200 10.0.0.1:54321",
        "v1.2.3-rc.4+build.20240115",
        "3.14159265358979",
        "0x41d4a71644665544",
        // SSN: areas, groups and serials that were never given; parts of longer numbers.
        "000-12-3456",
        "666-12-3456",
        "900-12-3456",
        "123-00-4567",
        "123-45-0000",
        "123-45-67890",
        "9-123-45-6789",
        "123-45-6789-1",
        "123-456-789",
        "123456789",
        // Telephone.
        "+20240115",
        "1+15551234567",
        "555-0123",
        "123-456-7890",
        "211-311-0123",
        "01.02.2024",
        "0012345678901",
        "+05:30",
        // E-mail.
        "user@localhost",
        "icon@2x.png",
        "lodash@4.17.21",
        "@handle",
        "a@b.c",
        "x @ y.com",
        "foo@-bar.com",
        "foo@.com",
        // IBAN: check digits, length, country.
        "DE89370400440532013001",
        "DE8937040044053201300",
        "DE893704004405320130000",
        "XX89370400440532013000",
        // Tokens and keys.
        "eyJub3QiOiJhIGp3dCJ9.e30.x",
        "eyJhbGciOiJIUzI1NiJ9",
        "eyJhbGciOiJIUzI1NiJ9.e30",
        "AKIA1234",
        "AKIAIOSFODNN7EXAMPLEX",
        "XAKIAIOSFODNN7EXAMPLE",
        "ghp_short",
        "sk_live_",
        "xoxb-1",
        "secret: da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        // Nothing at all.
        "",
        "Straße 12, 80331 München",
        "The quick brown fox jumps over the lazy dog",
    ]);
}

#[test]
fn other_numbers_are_found() {
    finds(Detector::UsSsn, &["123-45-6789", "078-05-1120", "899 99 9999", "123\u{2010}45\u{2011}6789"]);
    assert_eq!(scan(&[Detector::UsSsn], "SSN: 123456789"), [(Detector::UsSsn, "123456789".to_owned())]);
    assert_eq!(scan(&[Detector::UsSsn], "social security no 123456789.").len(), 1);
    finds(
        Detector::Phone,
        &[
            "+15551234567",
            "+1 (555) 123-4567",
            "+44 20 7946 0958",
            "+49-89-123456",
            "0044 20 7946 0958",
            "00 44 20 7946 0958",
            "(212) 555-0123",
            "(212)555-0123",
            "212-555-0123",
            "212.555.0123",
            "212 555 0123",
            "1-212-555-0123",
            "01 23 45 67 89",
            "01.23.45.67.89",
            "020 7946 0958",
            "0161 496 0000",
            "07700 900123",
            "030/12345678",
        ],
    );
}

#[test]
fn addresses_are_found() {
    finds(
        Detector::Email,
        &[
            "a@b.co",
            "first.last+tag@sub.example.org",
            "o'brien@example.com",
            "user%relay@example.com",
            "x_y-z@ex-ample.museum",
            "user@xn--mnchen-3ya.de",
            "USER@EXAMPLE.COM",
            "user＠example．com",
            "us\u{200b}er@example.com",
        ],
    );
    assert_eq!(scan(&[Detector::Email], "mail bob@example.com."), [(Detector::Email, "bob@example.com".to_owned())]);
    assert_eq!(scan(&[Detector::Email], "{a@b.co,c@d.co}").len(), 2);
    assert_eq!(scan(&[Detector::Email], "josé@exämple.de"), [(Detector::Email, "josé@exämple.de".to_owned())]);
    finds(
        Detector::Iban,
        &[
            "DE89370400440532013000",
            "DE89 3704 0044 0532 0130 00",
            "de89370400440532013000",
            "GB82WEST12345698765432",
            "GB29 NWBK 6016 1331 9268 19",
            "FR1420041010050500013M02606",
            "NO9386011117947",
            "MT84MALT011000012345MTLCAST001S",
            "NL91ABNA0417164300",
            "CH9300762011623852957",
        ],
    );
}

#[test]
fn keys_are_found() {
    let jwt =
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U";
    finds(Detector::Jwt, &[jwt, "eyJhbGciOiJub25lIn0.e30."]);
    assert_eq!(scan(&[Detector::Jwt], &format!("Bearer {jwt}.")), [(Detector::Jwt, jwt.to_owned())]);
    assert_eq!(scan(&[Detector::Jwt], &format!("eyJunk.{jwt}")).len(), 1, "a decoy in front hides nothing");
    // Put together here, so that no scanner of source code takes them for real ones.
    let keys = [
        "AKIAIOSFODNN7EXAMPLE".to_owned(),
        format!("ASIA{}", "A2".repeat(8)),
        format!("AIza{}", "a-_B1".repeat(7)),
        format!("ghp_{}", "aB1".repeat(12)),
        format!("github_pat_{}", "aB_1".repeat(20)),
        format!("xoxb-{}", "123-abc".repeat(3)),
        format!("sk_live_{}", "aB1".repeat(8)),
        format!("rk_test_{}", "aB1".repeat(8)),
        format!("glpat-{}", "aB1-_".repeat(4)),
        format!("npm_{}", "aB1".repeat(12)),
        format!("sk-ant-{}", "aB1-".repeat(10)),
    ];
    finds(Detector::ApiKey, &keys.iter().map(String::as_str).collect::<Vec<_>>());
    let secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
    for text in [
        format!("aws_secret_access_key={secret}"),
        format!("\"SecretAccessKey\": \"{secret}\""),
        format!("AKIAIOSFODNN7EXAMPLE,{secret}"),
    ] {
        assert!(scan(&[Detector::ApiKey], &text).iter().any(|(_, found)| found == secret), "{text}");
    }
    for label in
        ["PRIVATE KEY", "RSA PRIVATE KEY", "OPENSSH PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "PGP PRIVATE KEY BLOCK"]
    {
        let pem = format!("-----BEGIN {label}-----\nMIIEvQIBADANBg\n-----END {label}-----");
        finds(Detector::PrivateKey, &[&pem]);
        let cut = pem.get(..pem.len() - 40).unwrap();
        assert_eq!(
            scan(&[Detector::PrivateKey], cut),
            [(Detector::PrivateKey, cut.to_owned())],
            "cut off, all of it goes"
        );
    }
}

#[test]
fn only_what_is_wanted_is_found() {
    assert_eq!(scan(&[Detector::Email], "4111111111111111"), []);
    assert_eq!(scan(&[Detector::Card], "a@b.co 4111111111111111").len(), 1);
}

#[test]
fn overlaps_are_joined() {
    let jwt_mail = "eyJhbGciOiJub25lIn0.e30.sig@example.com";
    let found = scan(&Detector::ALL, jwt_mail);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].1, jwt_mail);
}

/// Whatever stands between two of them, but for signs that make one long number of two.
#[test]
fn values_that_touch_are_all_found() {
    const VALUES: [&str; 5] =
        ["4111111111111111", "+4930901820345", "me@example.com", "DE89370400440532013000", "123-45-6789"];
    for first in VALUES {
        for second in VALUES {
            for sign in ["+", "-", ".", "/", "_", "@", ":", "=", "%", "\u{200b}+"] {
                let is_one_number = "-./".contains(sign) && [first, second].contains(&"123-45-6789");
                if is_one_number {
                    continue;
                }
                let text = format!("{first}{sign}{second}{sign}{first}");
                let mut work = Work::default();
                SCANNER.scan(DetectorSet(u8::MAX), text.as_bytes(), &mut work);
                let hidden = |at: usize| work.spans().iter().any(|span| (span.start..span.end).contains(&at));
                let left: String = text.char_indices().map(|(at, char)| if hidden(at) { '#' } else { char }).collect();
                let tells = |part: Option<&str>| left.contains(part.unwrap());
                let told = VALUES.iter().any(|value| tells(value.get(value.len() - 6..)) || tells(value.get(..6)));
                assert!(!told, "{text}: {left}");
            }
        }
    }
}

#[test]
fn chains_of_values_are_found_or_masked_whole() {
    let scanner = &SCANNER;
    let mut work = Work::default();
    for count in [2, 3, 10, 31, 32, 33, 1000] {
        let text = vec!["4111111111111111"; count].join("+");
        match scanner.scan(DetectorSet(u8::MAX), text.as_bytes(), &mut work) {
            Found::TooMuch if count > 10 => {}
            _ => assert!(work.spans().iter().map(|span| span.end - span.start).sum::<usize>() >= 16 * count, "{count}"),
        }
    }
}

#[test]
fn long_values_and_many_hits_are_bounded() {
    let scanner = &SCANNER;
    let mut work = Work::default();
    let mut set = DetectorSet::default();
    set.insert(Detector::Email);
    assert_eq!(scanner.scan(set, &vec![b'a'; MAX_VALUE + 1], &mut work), Found::TooMuch);
    assert_eq!(scanner.scan(set, "a@b.co ".repeat(MAX_SPANS).as_bytes(), &mut work), Found::Spans);
    assert_eq!(scanner.scan(set, "a@b.co ".repeat(MAX_SPANS + 1).as_bytes(), &mut work), Found::TooMuch);
}

/// A search that is not linear would take minutes here.
#[test]
fn hostile_text_is_searched_in_linear_time() {
    let scanner = &SCANNER;
    let mut work = Work::default();
    let all = DetectorSet(u8::MAX);
    for unit in [
        "eyJ",
        "eyJ-",
        "eyJ.",
        "eyJhbGciOiJub25lIn0.",
        "AIza-",
        "xoxb-",
        "ghp_",
        "a@",
        "@a.",
        "1 ",
        "4111 ",
        "+1",
        "DE89 ",
        "00 ",
        "-----BEGIN ",
        "-----BEGIN PRIVATE KEY-----",
        "secret/",
        "AccountKey=",
        "x1",
        "(",
        "0/",
        "\u{200b}",
        "４",
    ] {
        let text = unit.repeat(200_000 / unit.len());
        scanner.scan(all, text.as_bytes(), &mut work);
    }
}

/// Appends the digit that makes Luhn's sum a multiple of ten, computed as the standard words it.
fn with_check_digit(digits: &str) -> String {
    let doubled = digits.bytes().rev().enumerate().map(|(place, digit)| {
        let digit = u32::from(digit - b'0') * if place % 2 == 0 { 2 } else { 1 };
        digit / 10 + digit % 10
    });
    let sum: u32 = doubled.sum();
    format!("{digits}{}", (10 - sum % 10) % 10)
}

proptest! {
    #[test]
    fn any_visa_is_found_and_no_neighbour_of_it(body in "4[0-9]{14}", wrong in 1_u8..10) {
        let card = with_check_digit(&body);
        prop_assert_eq!(scan(&[Detector::Card], &card), [(Detector::Card, card.clone())]);
        let last = (card.as_bytes()[15] - b'0' + wrong) % 10;
        let other = format!("{body}{last}");
        prop_assert_eq!(scan(&[Detector::Card], &other), []);
    }

    #[test]
    fn any_bytes_give_ordered_spans_inside_the_value(value in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut work = Work::default();
        SCANNER.scan(DetectorSet(u8::MAX), &value, &mut work);
        let mut end = 0;
        for span in work.spans() {
            prop_assert!(span.start >= end && span.start < span.end && span.end <= value.len());
            end = span.end;
        }
    }

    #[test]
    fn any_text_is_cut_between_characters(text in "(\\PC|[4１ @.\u{200b}-]|4111 1111 1111 1111|é@b\\.co){0,30}") {
        for (_, found) in scan(&Detector::ALL, &text) {
            prop_assert!(!found.is_empty());
        }
    }
}
