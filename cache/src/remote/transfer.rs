//! One object on its way: read and hashed, or hashed and written.

use std::fs::File;
use std::io::Read;
use std::path::Path as FsPath;
use std::time::Duration;

use futures_util::StreamExt;
use object_store::path::Path;
use object_store::{Error as ObjectError, ObjectStoreExt, PutMode, PutOptions, PutPayload, WriteMultipart};

use super::Remote;
use crate::digest::Digest;
use crate::durable::Disk;
use crate::error::{Error, Result};

/// A manifest or a record that is longer is none.
const MAX_SMALL: u64 = 64 << 20;

/// Files from this size on travel in parts of it.
const PART: u64 = 8 << 20;

/// The most parts that S3 takes.
const MAX_PARTS: u64 = 10_000;

/// How often to ask again for what arrived cut or changed.
const ATTEMPTS: u32 = 3;

impl Remote {
    /// A small object, whole. `None` if it is not there.
    pub(super) async fn read(&self, name: &Path) -> Result<Option<Vec<u8>>> {
        let mut attempt = 1;
        loop {
            match self.read_once(name).await {
                Err(Cut::Refused(error)) => return Err(error),
                Err(Cut::Short(why)) if attempt == ATTEMPTS => {
                    return Err(self.fails("read", name.as_ref(), why));
                }
                Err(Cut::Short(_)) => attempt = pause(attempt).await,
                Ok(bytes) => return Ok(bytes),
            }
        }
    }

    async fn read_once(&self, name: &Path) -> Result<Option<Vec<u8>>, Cut> {
        let answer = match self.objects.get(name).await {
            Err(ObjectError::NotFound { .. }) => return Ok(None),
            other => other.map_err(|error| Cut::Refused(self.refused("read", name, &error)))?,
        };
        let expected = answer.meta.size;
        let mut bytes = Vec::new();
        let mut parts = answer.into_stream();
        while let Some(part) = parts.next().await {
            bytes.extend_from_slice(&part.map_err(|error| Cut::Short(words(&error)))?);
            if bytes.len() as u64 > MAX_SMALL {
                return Err(Cut::Refused(self.fails(
                    "read",
                    name.as_ref(),
                    "it is far too long for what it should be",
                )));
            }
        }
        if bytes.len() as u64 != expected {
            return Err(Cut::Short(format!("{} of {expected} bytes arrived", bytes.len())));
        }
        Ok(Some(bytes))
    }

    /// The file with this digest and size, written to `to`, which must not be there. Its bytes are hashed as they come.
    pub(super) async fn fetch(
        &self,
        digest: &Digest,
        size: u64,
        to: &FsPath,
        disk: &Disk,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<()> {
        let name = self.file(digest);
        let mut attempt = 1;
        loop {
            match self.fetch_once(&name, digest, size, to, disk, progress).await {
                Err(Cut::Refused(error)) => return Err(error),
                Err(Cut::Short(why)) if attempt == ATTEMPTS => {
                    self.suspect(&name);
                    return Err(self.fails("read", name.as_ref(), why));
                }
                Err(Cut::Short(_)) => {
                    disk.remove_file(to)?;
                    attempt = pause(attempt).await;
                }
                Ok(()) => return Ok(()),
            }
        }
    }

    async fn fetch_once(
        &self,
        name: &Path,
        digest: &Digest,
        size: u64,
        to: &FsPath,
        disk: &Disk,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(), Cut> {
        let answer = self.objects.get(name).await;
        let mut parts = match answer {
            Err(ObjectError::NotFound { .. }) => {
                self.suspect(name);
                return Err(Cut::Refused(self.fails(
                    "read",
                    name.as_ref(),
                    "it is not there, though a manifest names it",
                )));
            }
            other => other.map_err(|error| Cut::Refused(self.refused("read", name, &error)))?.into_stream(),
        };
        let mut file = disk.start(to).map_err(Cut::Refused)?;
        let mut hasher = blake3::Hasher::new();
        while let Some(part) = parts.next().await {
            let part = part.map_err(|error| Cut::Short(words(&error)))?;
            hasher.update(&part);
            if hasher.count() > size {
                return Err(Cut::Short(format!("it is longer than the {size} bytes that it should have")));
            }
            file.append(&part).map_err(Cut::Refused)?;
            progress(part.len() as u64);
        }
        if hasher.count() < size {
            return Err(Cut::Short(format!("{} of {size} bytes arrived", hasher.count())));
        }
        if Digest::from(hasher.finalize()) != *digest {
            return Err(Cut::Short("its bytes are not those that its name says".to_owned()));
        }
        file.finish().map_err(Cut::Refused)
    }

    /// Whether there is an object of this name and size that nobody found damaged.
    pub(super) async fn has(&self, name: &Path, size: u64) -> Result<bool> {
        if self.is_suspect(name) {
            return Ok(false);
        }
        match self.objects.head(name).await {
            Ok(meta) => Ok(meta.size == size),
            Err(ObjectError::NotFound { .. }) => Ok(false),
            Err(error) => Err(self.refused("look at", name, &error)),
        }
    }

    /// Writes a small object, over what is there.
    pub(super) async fn write(&self, name: &Path, bytes: Vec<u8>) -> Result<()> {
        self.make_room(name)?;
        self.objects.put(name, bytes.into()).await.map_err(|error| self.refused("write", name, &error))?;
        self.open_up(name)?;
        self.settled(name);
        Ok(())
    }

    /// Writes a small object unless there is one. Whether it was written can be known only by reading it: the reply may be
    /// lost, and some servers do not know the condition.
    pub(super) async fn write_new(&self, name: &Path, bytes: Vec<u8>) -> Result<()> {
        if self.objects.head(name).await.is_ok() {
            return Ok(());
        }
        self.make_room(name)?;
        let options = PutOptions::from(PutMode::Create);
        match self.objects.put_opts(name, PutPayload::from(bytes.clone()), options).await {
            Ok(_) => self.open_up(name),
            Err(ObjectError::AlreadyExists { .. } | ObjectError::Precondition { .. }) => Ok(()),
            Err(ObjectError::NotImplemented { .. } | ObjectError::NotSupported { .. }) => {
                self.write(name, bytes).await
            }
            Err(error) => Err(self.refused("write", name, &error)),
        }
    }

    /// Writes the file at `from`, if it still holds what its digest says.
    pub(super) async fn send(
        &self,
        digest: &Digest,
        size: u64,
        from: &FsPath,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<()> {
        let name = self.file(digest);
        let damaged = || Error::Damaged { path: from.to_path_buf() };
        let mut file = File::open(from).map_err(Error::io("read", from))?;
        if size <= PART {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map_err(Error::io("read", from))?;
            if Digest::of(&bytes) != *digest {
                return Err(damaged());
            }
            self.write(&name, bytes).await?;
            progress(size);
            return Ok(());
        }
        self.make_room(&name)?;
        let upload =
            self.objects.put_multipart(&name).await.map_err(|error| self.refused("write", &name, &error))?;
        let part = PART.max(size.div_ceil(MAX_PARTS)) as usize;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, part);
        let mut hasher = blake3::Hasher::new();
        let sent = loop {
            let mut bytes = Vec::new();
            if let Err(error) = (&mut file).take(part as u64).read_to_end(&mut bytes) {
                break Err(Error::io("read", from)(error));
            }
            if bytes.is_empty() {
                break if Digest::from(hasher.finalize()) == *digest { Ok(()) } else { Err(damaged()) };
            }
            hasher.update(&bytes);
            // Two parts ahead of the wire, no more of the file is in memory.
            if let Err(error) = upload.wait_for_capacity(2).await {
                break Err(self.refused("write", &name, &error));
            }
            progress(bytes.len() as u64);
            upload.put(bytes.into());
        };
        if let Err(error) = sent {
            // What was sent is no object yet, and the server forgets it; that it may not hear so is no second error.
            drop(upload.abort().await);
            return Err(error);
        }
        upload.finish().await.map_err(|error| self.refused("write", &name, &error))?;
        self.open_up(&name)?;
        self.settled(&name);
        Ok(())
    }
}

/// Why a transfer ended early.
enum Cut {
    /// There is no use in asking again at once.
    Refused(Error),
    /// What arrived was cut or changed on its way.
    Short(String),
}

async fn pause(attempt: u32) -> u32 {
    tokio::time::sleep(Duration::from_millis(200) * attempt).await;
    attempt + 1
}

/// What went wrong, in a line: servers answer with pages of XML.
pub(super) fn words(error: &ObjectError) -> String {
    match error {
        ObjectError::NotFound { .. } => "it is not there".to_owned(),
        ObjectError::PermissionDenied { .. } | ObjectError::Unauthenticated { .. } => {
            format!("access was denied ({}): check the credentials", cause(error))
        }
        _ => cause(error),
    }
}

/// The innermost cause, which is the one that says something, cut to a line.
fn cause(error: &ObjectError) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let text = innermost.to_string();
    let code = |open: &str, close: &str| {
        let after = text.split_once(open)?.1;
        Some(after.split_once(close)?.0.to_owned())
    };
    let line =
        code("<Code>", "</Code>").unwrap_or_else(|| text.lines().next().unwrap_or_default().to_owned());
    line.chars().take(200).collect()
}
