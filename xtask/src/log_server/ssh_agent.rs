//! An ssh-agent with one key, for the witness, which takes its key from nowhere else: only listing and signing
//! (draft-miller-ssh-agent, sections 4.4 and 4.5). Everything else is refused.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};

use super::keys::{Key, ssh_string};

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGNATURE: u8 = 14;
/// No checkpoint is longer.
const LARGEST: usize = 64 << 10;

/// Answers at `socket` until the process ends.
pub fn serve(socket: &Path, key: Arc<Key>) -> Result<()> {
    let listener = UnixListener::bind(socket).with_context(|| format!("Failed to listen at {}", socket.display()))?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let key = Arc::clone(&key);
            // Whoever goes away is served no longer.
            std::thread::spawn(move || drop(converse(stream, &key)));
        }
    });
    Ok(())
}

fn converse(mut stream: UnixStream, key: &Key) -> std::io::Result<()> {
    loop {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if length > LARGEST {
            return Ok(());
        }
        let mut request = vec![0; length];
        stream.read_exact(&mut request)?;
        stream.write_all(&ssh_string(&answer(&request, key)))?;
    }
}

fn answer(request: &[u8], key: &Key) -> Vec<u8> {
    match request.split_first() {
        Some((&REQUEST_IDENTITIES, _)) => {
            let comment = ssh_string(b"witness");
            [&[IDENTITIES], &1_u32.to_be_bytes()[..], &ssh_string(&key.ssh_public()), &comment].concat()
        }
        Some((&SIGN_REQUEST, rest)) => sign(rest, key).unwrap_or_else(|| vec![FAILURE]),
        _ => vec![FAILURE],
    }
}

fn sign(request: &[u8], key: &Key) -> Option<Vec<u8>> {
    let (public, rest) = take_string(request)?;
    let (bytes, _flags) = take_string(rest)?;
    (public == key.ssh_public()).then(|| [&[SIGNATURE][..], &ssh_string(&key.ssh_sign(bytes))].concat())
}

fn take_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(u32::from_be_bytes(*length) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_signs_with_its_own_key_only() {
        let (key, other) = (Key::generate().unwrap(), Key::generate().unwrap());
        let request = |key: &Key, bytes: &[u8]| {
            [&[SIGN_REQUEST], &ssh_string(&key.ssh_public())[..], &ssh_string(bytes), &[0; 4]].concat()
        };
        let expected = [&[SIGNATURE][..], &ssh_string(&key.ssh_sign(b"checkpoint"))].concat();
        assert_eq!(answer(&request(&key, b"checkpoint"), &key), expected);
        assert_eq!(answer(&request(&other, b"checkpoint"), &key), [FAILURE]);
        assert_eq!(answer(&[], &key), [FAILURE]);
        assert_eq!(answer(&[SIGN_REQUEST, 255, 255, 255, 255], &key), [FAILURE]);
        assert_eq!(answer(&[17], &key), [FAILURE], "it takes no keys");
    }
}
