//! Arguments: `KEY`, `KEY=VALUE`, or several of these between commas. What a key or a value has of
//! those signs is percent-encoded, so that tests can ask for any key.

/// Undoes the percent-encoding. What is none stays as it is.
pub fn decode(text: &str) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let escaped = match rest {
            [b'%', high, low, ..] => digit(*high).zip(digit(*low)),
            _ => None,
        };
        rest = match escaped {
            Some((high, low)) => {
                decoded.push(high << 4 | low);
                &rest[3..]
            }
            None => {
                decoded.push(*first);
                after
            }
        };
    }
    String::from_utf8_lossy(&decoded).into_owned()
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
