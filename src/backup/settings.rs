//! Lines of an option file that the program reads.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// `name="value"`, with what an option file escapes (`my_default.c`, `find_end_comment` and the loop that calls it).
pub(super) fn line(name: &str, value: &OsStr) -> Vec<u8> {
    let mut line = [name.as_bytes(), b"=\""].concat();
    for &byte in value.as_bytes() {
        match byte {
            b'\\' | b'"' => line.extend([b'\\', byte]),
            b'\n' => line.extend(b"\\n"),
            b'\r' => line.extend(b"\\r"),
            _ => line.push(byte),
        }
    }
    line.extend(b"\"\n");
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_stays_in_its_line() {
        let text = String::from_utf8(line("password", r#"a "b\c# d"#.as_ref())).unwrap();
        assert_eq!(text, "password=\"a \\\"b\\\\c# d\"\n");
        assert_eq!(line("x", "1\nplugin_load=y".as_ref()), b"x=\"1\\nplugin_load=y\"\n");
    }
}
