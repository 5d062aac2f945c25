//! Arguments: `KEY`, `KEY=VALUE`, or several of these between commas. What a key or a value has of
//! those signs is percent-encoded, so that tests can ask for any key.

/// Undoes the percent-encoding. What is none stays as it is.
pub fn decode(text: &str) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let (byte, after) = escaped(rest).unwrap_or((*first, after));
        decoded.push(byte);
        rest = after;
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// The byte that an escape at the start of a text stands for, and what follows it.
fn escaped(text: &[u8]) -> Option<(u8, &[u8])> {
    let [b'%', high, low, after @ ..] = text else { return None };
    Some((digit(*high)? << 4 | digit(*low)?, after))
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// `KEY=VALUE`; without a value, it is empty.
pub fn pair(argument: &str) -> (String, String) {
    let (key, value) = argument.split_once('=').unwrap_or((argument, ""));
    (decode(key), decode(value))
}

/// What stands between commas, still encoded; nothing where the argument is empty.
pub fn list(argument: &str) -> impl Iterator<Item = &str> {
    argument.split(',').filter(|part| !part.is_empty())
}
