"""Message values as producers really send them: valid events, and invalid ones with the expected reason."""

import json

from churn_platform_tests.stream.streams import event

MEGABYTE = 1_000_000
DEEP = 100_000


def valid(**changes: object) -> bytes:
    """Return a valid event with a new id, as bytes."""
    return json.dumps(event(1, **changes)).encode()


def with_raw(name: str, raw: bytes) -> bytes:
    """Return a valid event whose field `name` has these bytes as its value, valid JSON or not."""
    others = {other: content for other, content in event(1).items() if other != name}
    return json.dumps(others).encode()[:-1] + b', "' + name.encode() + b'": ' + raw + b"}"


def without(name: str) -> bytes:
    """Return an event that lacks a field."""
    return json.dumps({other: content for other, content in event(1).items() if other != name}).encode()


def good_values() -> dict[str, bytes]:
    """Return events in unusual forms, by what is unusual."""
    return {
        "white space around": b" \n\t" + valid() + b"\r\n ",
        "unknown fields": valid(Surname="Müller", Extra={"a": [1, {"b": None}]}),
        "unknown field of 1 MB": valid(Extra="x" * MEGABYTE),
        "unknown field of 500 levels": with_raw("Extra", b"[" * 500 + b"]" * 500),
        "unknown field with U+0000": with_raw("Extra", rb'"a\u0000b"'),
        "unknown field that is not UTF-8": with_raw("Extra", b'"a\xff"'),
        "unknown name that is not UTF-8": valid()[:-1] + b', "a\xff": 1}',
        "unknown number beyond every range": with_raw("Extra", b"1e400"),
        "a repeated name": valid(Age=50)[:-1] + b', "Age": 51}',
        "integers for decimal fields": valid(Balance=3, EstimatedSalary=90_000, Age=41),
        "exponents": with_raw("Balance", b"1.2E+3"),
        "minus zero": with_raw("Balance", b"-0"),
        "minus zero with a point": with_raw("EstimatedSalary", b"-0.0"),
        "a null age": valid(Age=None),
        "the largest customer id": valid(CustomerId=2**62),
        "an escaped name": valid().replace(b'"Age"', rb'"\u0041ge"'),
        "an id in emoji": valid(event_id="evt 😀"),
        "an id of a surrogate pair": with_raw("event_id", rb'"evt \ud83d\ude01"'),
        "no id": without("event_id"),
        "a null id": valid(event_id=None),
        "no time": without("event_timestamp"),
        "a null time": valid(event_timestamp=None),
        "a time in another zone": valid(event_timestamp="2026-11-24T10:00:00.5+05:30"),
        "a time with a space, in small letters": valid(event_timestamp="2026-11-24 08:00:00z"),
        "a time in nanoseconds": valid(event_timestamp="2026-11-24T08:00:00.123456789Z"),
        "an envelope": json.dumps({"timestamp": "2026-11-24T08:00:00", "data": event(1)}).encode(),
        "an envelope with more fields": json.dumps({"v": 1, "data": event(1), "timestamp": None}).encode(),
    }


def bad_values() -> dict[str, tuple[bytes | None, str]]:
    """Return invalid values by what is wrong with them, each with a part of its dead letter's reason."""
    numbers: dict[str, tuple[bytes | None, str]] = {
        f"{name} is {raw.decode()}": (with_raw(name, raw), expected)
        for name, raw, expected in (
            (
                "CreditScore",
                b'"640"',
                'CreditScore: expected a whole number from 300 to 900 (without a decimal point), got "640".',
            ),
            ("CreditScore", b"640.0", "got 640.0."),
            ("CreditScore", b"-0", "got -0."),
            ("CreditScore", b"9223372036854775808", "got 9223372036854775808."),
            ("CreditScore", b"1" + b"0" * 5_000, "got 1000000000"),
            ("Age", b"1e400", "Age: expected a number from 18 to 120 or null, got 1e400."),
            ("Age", b"true", "got true."),
            ("Age", b"NaN", "NaN at byte"),
            ("Balance", b"-Infinity", "-Infinity at byte"),
            ("Balance", b"Infinity", "Send null where there is no number"),
            ("Balance", b"007", "Not JSON: invalid number"),
            ("Balance", b".5", "near"),
            ("HasCrCard", b"true", "HasCrCard: expected 0 or 1, got true."),
            ("HasCrCard", b"1.0", "got 1.0."),
            ("CustomerId", b"4611686018427387905", "from 0 to 4611686018427387904"),
            ("CustomerId", b"15600001.0", "got 15600001.0."),
            ("EstimatedSalary", b"null", "EstimatedSalary: expected a number from 0 to 1000000000, got null."),
            ("Tenure", b"[3]", "got an array."),
        )
    }
    times: dict[str, tuple[bytes | None, str]] = {
        f"event_timestamp is {raw}": (with_raw("event_timestamp", raw.encode()), f"got {raw}.")
        for raw in (
            '"2026-11-24T08:00:00"',
            '"2026-11-24T24:00:00Z"',
            '"2026-06-30T23:59:60Z"',
            '"0000-01-01T00:00:00Z"',
            '"10000-01-01T00:00:00Z"',
            '"2026-02-30T00:00:00Z"',
            '"2026-11-24"',
            '"24.11.2026 08:00"',
            '""',
            "1795510800",
            "1795510800000.5",
            "true",
        )
    }
    return {
        "a tombstone": (None, "no value (null, a tombstone)"),
        "empty": (b"", "empty (0 bytes)"),
        "white space": (b" \n ", "empty (3 bytes)"),
        "1 MB of garbage": (b"\xc3\x28garbage" * (MEGABYTE // 9), "Not UTF-8: byte 0 is 0xc3"),
        "text": (b"hello", "Not JSON: invalid character at byte 0, near 'hello'"),
        "XML": (b"<event/>", "near '<event/>'"),
        "Python": (b"{'Age': 41}", "object keys must be strings"),
        "null": (b"null", "JSON's null"),
        "a number": (b"17", "The value is a number."),
        "a text": (b'"an event"', "a text in quotes"),
        "an array": (b"[" + valid() + b"]", "an array. An event is a JSON object."),
        "an empty object": (b"{}", "CustomerId is missing"),
        "cut off": (valid()[:200], "ends too early, after 200 bytes"),
        "cut off in a text": (valid(Extra="x" * 50)[:-20], "Was it cut off?"),
        "a missing field": (without("Tenure"), "Tenure is missing. Names are case-sensitive; found: CreditScore,"),
        "names in small letters": (valid().lower(), "found: creditscore, geography"),
        "a null gender": (valid(Gender=None), 'Gender: expected "Female" or "Male", got null.'),
        "an unknown country": (
            valid(Geography="Italy"),
            'Geography: expected "France", "Germany" or "Spain", got "Italy".',
        ),
        "a country of 1 MB": (valid(Geography="x" * MEGABYTE), 'got "xxxxxxxxxx'),
        "a country with U+0000": (with_raw("Geography", rb'"Spain\u0000"'), r'got "Spain\u0000".'),
        "a country with a right-to-left override": (
            valid(Geography="Spain\u202e\n"),
            r"got \"Spain\u202e\n\".".replace('\\"', '"'),
        ),
        "a repeated name, once with a wrong value": (
            valid(Age=5)[:-1] + b', "Age": 41}',
            "got 2 times (each has to be right): 5, 41.",
        ),
        "an id with U+0000": (with_raw("event_id", rb'"a\u0000b"'), "event_id holds U+0000"),
        "an empty id": (valid(event_id=""), 'event_id: expected text of 1 to 200 characters or null, got "".'),
        "a long id": (valid(event_id="x" * 201), "event_id: expected text of 1 to 200 characters"),
        "a number as id": (valid(event_id=17), "got 17."),
        "a label other than 0 and 1": (valid(true_churn_label=2), "true_churn_label: expected 0 or 1 or null, got 2."),
        "not UTF-8 in a known field": (with_raw("event_id", b'"a\xff"'), "Not UTF-8: byte"),
        "a surrogate in UTF-8": (with_raw("Geography", b'"\xed\xa0\x80"'), "Not UTF-8: byte"),
        "not UTF-8 at all": (bytes(range(128, 256)), "Not UTF-8: byte 0 is 0x80"),
        "half a surrogate pair": (with_raw("event_id", rb'"a\ud800b"'), r"Half of a surrogate pair before byte"),
        "half a pair in an unknown field": (with_raw("Extra", rb'"a\ud800"'), r"\ud800' is no character"),
        "the other half": (with_raw("event_id", rb'"a\udc00b"'), "surrogate pair at byte"),
        "an unknown escape": (with_raw("event_id", rb'"a\qb"'), "invalid escape character"),
        "a raw line end in a text": (with_raw("event_id", b'"a\nb"'), "Not JSON: invalid character"),
        "a byte order mark": (b"\xef\xbb\xbf" + valid(), "byte order mark (ef bb bf). Send it without."),
        "UTF-16": (valid().decode().encode("utf-16"), "UTF-16"),
        "UTF-16, big end first, without a mark": (valid().decode().encode("utf-16-be"), "UTF-16"),
        "UTF-32": (valid().decode().encode("utf-32"), "UTF-32"),
        "gzip": (b"\x1f\x8b\x08\x00\x00", "gzip"),
        "Avro": (b"\x00\x00\x00\x00\x07\x02abc", "Avro"),
        "two events": (valid() + valid(), 'more follows: \'{"CreditScore"'),
        "two events in lines": (valid() + b"\n" + valid(), "Send one in a message."),
        "bytes after the event": (valid() + b"\x00", r"more follows: '\u0000'"),
        "an extra comma": (valid()[:-1] + b",}", "trailing comma"),
        "deep brackets": (with_raw("Extra", b"[" * DEEP + b"]" * DEEP), "nested too deeply"),
        "deep brackets in a known field": (with_raw("Age", b"[" * DEEP + b"]" * DEEP), "nested too deeply"),
        "deep objects": (b'{"a":' * DEEP, "nested too deeply"),
        "only brackets": (b"[" * DEEP, "The value is an array."),
        "an envelope around a wrong event": (
            json.dumps({"timestamp": 1, "data": event(1, Age=5)}).encode(),
            "Age in data: expected a number from 18 to 120 or null, got 5.",
        ),
        "an envelope around nothing": (b'{"timestamp": 1, "data": null}', "data is JSON's null."),
        "an envelope of a changed-data capture": (b'{"schema": {}, "payload": {}}', "found: schema, payload."),
        "a time before the platform's": (valid(event_timestamp="2015-01-01T00:00:00Z"), "(STREAM_EPOCH)"),
        "the earliest possible time": (valid(event_timestamp="0001-01-01T00:00:00Z"), "(STREAM_EPOCH)"),
        "a time in the far future": (valid(event_timestamp="9999-12-31T23:59:59Z"), "the latest that this batch takes"),
        **numbers,
        **times,
    }
