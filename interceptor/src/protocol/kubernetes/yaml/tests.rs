//! What is read of YAML, and what is not.

use serde_json::json;

use super::*;

fn value(text: &str) -> Value {
    read(text.as_bytes()).unwrap_or_else(|why| panic!("{text:?}: {why}"))
}

const DEPLOYMENT: &str = r#"# As people write them.
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web   # the shop
  labels: {app: web, "tier": 'front'}
  annotations:
    note: "with \"quotes\" and \u00e9"
    said: 'it''s'
    script: |
      #!/bin/sh
      echo "a: b"

      exit 0
    kept: |+
      one

spec:
  replicas: 3
  paused: false
  ratio: 0.25
  template:
    spec:
      containers:
      - name: web
        image: registry.corp.example:5000/web:1.2@sha256:00ff
        args: [--port=80, "--verbose", -v, '8080']
        command:
          - sh
          - -c
          - |-
            echo hello
        env:
        - {name: HOST, value: "yes"}
        - name: ADDRESS
          value: 10.0.0.1
        resources:
          limits: {cpu: 100m, memory: 1Gi}
      volumes:
      - name: empty
        emptyDir: {}
      - name: nothing
        emptyDir:
      - name: none
        emptyDir: null
"#;

#[test]
fn plain_documents_are_what_they_are_in_json() {
    let expected = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "web",
            "labels": {"app": "web", "tier": "front"},
            "annotations": {
                "note": "with \"quotes\" and é",
                "said": "it's",
                "script": "#!/bin/sh\necho \"a: b\"\n\nexit 0\n",
                "kept": "one\n\n",
            },
        },
        "spec": {
            "replicas": 3,
            "paused": false,
            "ratio": 0.25,
            "template": {"spec": {
                "containers": [{
                    "name": "web",
                    "image": "registry.corp.example:5000/web:1.2@sha256:00ff",
                    "args": ["--port=80", "--verbose", "-v", "8080"],
                    "command": ["sh", "-c", "echo hello"],
                    "env": [{"name": "HOST", "value": "yes"}, {"name": "ADDRESS", "value": "10.0.0.1"}],
                    "resources": {"limits": {"cpu": "100m", "memory": "1Gi"}},
                }],
                "volumes": [
                    {"name": "empty", "emptyDir": {}},
                    {"name": "nothing", "emptyDir": null},
                    {"name": "none", "emptyDir": null},
                ],
            }},
        },
    });
    assert_eq!(value(DEPLOYMENT), expected);
    // JSON by the name of YAML, on one line and on many.
    for text in [expected.to_string(), serde_json::to_string_pretty(&expected).unwrap()] {
        assert_eq!(value(&text), expected);
    }
    assert_eq!(value("a:\n- - 1\n  - b: c\n    d: e\n"), json!({"a": [[1, {"b": "c", "d": "e"}]]}));
    assert_eq!(value("a: [\n  b,   # why\n  {c: d}\n]"), json!({"a": ["b", {"c": "d"}]}));
    assert_eq!(value("a: -7\n"), json!({"a": -7}));
    assert_eq!(value("größe: weiß\n"), json!({"größe": "weiß"}));
}

#[test]
fn a_document_that_says_more_than_values_is_not_read() {
    for text in [
        "",
        "# nothing\n",
        "a\n",
        "- a\n",
        "a: b\n---\nc: d\n",
        "---\na: b\n---\n",
        "a: b\n...\n",
        "a: b\n...\nc: d\n",
        "%YAML 1.1\n---\na: b\n",
        "--- {a: b}\n",
        "--- a: b\n",
        "a: &x b\nc: *x\n",
        "a: &x b\n",
        "a: &x {b: c}\n",
        "a: !!str b\n",
        "a: ! b\n",
        "!!map {a: b}\n",
        "a: !x {b: c}\n",
        "<<: {a: b}\n",
        "\"<<\": {a: b}\n",
        "a: {<<: {b: c}}\n",
        "a: {b: c}\nb:\n  <<: [{c: d}]\n",
        "=: a\n",
        "? a\n: b\n",
        "{? a : b}\n",
        "? [a]\n: b\n",
        "[a]: b\n",
        "{[a]: b}\n",
        "{{a: b}: c}\n",
        "a: [b: c]\n",
        "a: [? b : c]\n",
        "a: {b, c}: d\n",
        ": a\n",
        "{: a}\n",
        "a: b\nA: c\n",
        "a: b\n\"\\u0061\": c\n",
        "a: {b: 1, B: 2}\n",
        "a\u{17f}: 1\nas: 2\n",
        "a: b: c\n",
        "a: b:\n",
        "a: |\n  b",
        "a: |\n  b\n\n  ",
        "{a:, b}\n",
        "a: [{b:}]\n",
        "{a :b}\n",
        "a: - b\n",
        "a:\tb\n",
        "a:\n\tb: c\n",
        "a: b\r\nc: d\r\n",
        "a: b\u{85}hostPID: true\n",
        "a: b\u{2028}hostPID: true\n",
        "a: \"b\u{2029}c\"\n",
        "\u{feff}a: b\n",
        "a: \u{feff}b\n",
        "a: b\0\n",
        "a: \"b\"# c\n",
        "a: {b: c}# d\n",
        "a: [b,, c]\n",
    ] {
        assert!(read(text.as_bytes()).is_err(), "{text:?}");
    }
    assert!(
        read(b"a: \xff\n").is_err()
            && read("a: b\n".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>().as_slice()).is_err()
    );
}

#[test]
fn what_readers_take_for_different_things_is_not_read() {
    for word in [
        "yes",
        "No",
        "ON",
        "off",
        "y",
        "N",
        "True",
        "TRUE",
        "False",
        "Null",
        "NULL",
        ".inf",
        "-.Inf",
        ".NaN",
        "nan",
        "=",
        "<<",
        "007",
        "08",
        "0o7",
        "0x1F",
        "0b1",
        "-0x1",
        "+1",
        "-0",
        "1_000",
        "_1",
        "1e3",
        "1E-3",
        "1.",
        ".5",
        "1.0",
        "1.50",
        "-.5",
        "12:30",
        "12:30:45",
        "1:1.5",
        "2001-01-01",
        "2001-12-14t21:59:43.10-05:00",
        "2001-12-14 21:59:43",
        "123e456",
        "1234567890123456",
        "0.1234567890123456",
        "+",
        "+.5",
        "++1",
        "1..2",
        "1-2",
        "`a",
        "@a",
        "%a",
        "?a",
        ":a",
        "!a",
        "*a",
        "&a",
        "|a",
        ">a",
        ",a",
        "]a",
        "}a",
        "\"a\"b",
        "'a'b",
        "\"a\nb\"",
        "a\n  b",
        "'a\n  b'",
        "\"\\x41\"",
        "\"\\a\"",
        "\"\\e\"",
        "\"\\ \"",
        "\"\\N\"",
        "\"a\\\n  b\"",
        "\"\\U00000041\"",
        "\"\\0\"",
        ">\n  a\n",
        ">-\n  a\n",
        "|2\n    a\n",
        "|-2\n    a\n",
        "|2-\n    a\n",
        "| # why\n  a\n",
        "|\n\n  a\n",
        "|\n   \n  a\n",
        "|\n  a\n   \n  b\n",
        "|\na\n",
        "|\n",
    ] {
        for text in [format!("a: {word}\n"), format!("a:\n- {word}\n")] {
            assert!(read(text.as_bytes()).is_err(), "{text:?}: {:?}", read(text.as_bytes()));
        }
    }
    for key in ["1", "1.5", "true", "null", "~", "yes", "0x1", "2001-01-01", "1e3", "12:30", "|\n a\n"] {
        for text in [format!("{key}: a\n"), format!("{{{key}: a}}\n"), format!("a:\n  b:\n    {key}: c\n")] {
            assert!(read(text.as_bytes()).is_err(), "{text:?}");
        }
    }
    for flow in ["a:b", "a?b", "a: b", "http://a", "nginx:1"] {
        assert!(read(format!("a: [{flow}]\n").as_bytes()).is_err(), "{flow}");
    }
}

#[test]
fn what_is_without_end_is_not_read() {
    for text in [
        format!("a: {}{}\n", "[".repeat(70), "]".repeat(70)),
        format!("a: {}{}\n", "{b: ".repeat(5000), "}".repeat(5000)),
        (0..70).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect(),
        format!("a:\n{}", "- \n".repeat(NODES)),
        format!("a: [{}1]\n", "1,".repeat(NODES)),
        format!("a:\n {}x\n", "- ".repeat(100)),
    ] {
        assert!(read(text.as_bytes()).is_err(), "{text:.40}");
    }
}

proptest::proptest! {
    /// JSON is YAML: what is read of it is what it says.
    #[test]
    fn json_is_read_as_json(text in "[ -~\u{e4}\u{20ac}]{0,20}", number in -99_999i64..99_999, flag: bool) {
        let body = json!({"t": text, "x": {"n": number, "f": flag, "l": [null, text, [], {}]}});
        proptest::prop_assert_eq!(read(body.to_string().as_bytes()).unwrap(), body);
    }

    /// Whatever is read of YAML, serialised, says the same again.
    #[test]
    fn whatever_is_read_says_the_same_as_json(text in "[a-c1-3:,\\[\\]{} \n#'\"|>~.&*!?<=-]{0,40}") {
        if let Ok(value) = read(text.as_bytes()) {
            proptest::prop_assert_eq!(read(value.to_string().as_bytes()).unwrap(), value);
        }
    }
}
