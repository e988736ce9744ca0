//! Files that gzip or Zstandard packed, as what is in them.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// What a file says, behind a byte order mark; it is unpacked where its first bytes say that it is packed.
pub(crate) fn unpack(file: impl Read + 'static) -> io::Result<Box<dyn BufRead>> {
    const BUFFER: usize = 1 << 16;
    let mut file = BufReader::with_capacity(BUFFER, file);
    let (gzip, zstd) = match file.fill_buf()? {
        [0x1f, 0x8b, ..] => (true, false),
        // A frame that decoders skip may come first.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => (false, true),
        _ => (false, false),
    };
    let mut reader: Box<dyn BufRead> = match (gzip, zstd) {
        (true, _) => Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(file))),
        (_, true) => Box::new(BufReader::with_capacity(BUFFER, Zstd::new(file))),
        _ => Box::new(file),
    };
    if reader.fill_buf()?.starts_with(b"\xEF\xBB\xBF") {
        reader.consume(3);
    }
    Ok(reader)
}

/// The frames of a Zstandard file, one after the other.
pub(crate) struct Zstd<R> {
    source: R,
    decoder: FrameDecoder,
    /// Whether a frame is begun.
    within: bool,
}

impl<R: BufRead> Zstd<R> {
    pub fn new(source: R) -> Self {
        Zstd { source, decoder: FrameDecoder::new(), within: false }
    }

    /// Begins the next frame, or leaves out one that is to be skipped.
    fn begin(&mut self) -> io::Result<()> {
        use FrameDecoderError::ReadFrameHeaderError as Header;
        match self.decoder.init(&mut self.source) {
            Ok(()) => self.within = true,
            Err(Header(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                io::copy(&mut self.source.by_ref().take(length.into()), &mut io::sink())?;
            }
            Err(e) => return Err(io::Error::other(e)),
        }
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        self.within = false;
        let (wanted, found) = (self.decoder.get_checksum_from_data(), self.decoder.get_calculated_checksum());
        let same = wanted.is_none() || wanted == found;
        if same { Ok(()) } else { Err(io::Error::other("its checksum is wrong: it is damaged; get it again")) }
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.within {
                if self.source.fill_buf()?.is_empty() {
                    return Ok(0);
                }
                self.begin()?;
                continue;
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let blocks = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder.decode_blocks(&mut self.source, blocks).map_err(io::Error::other)?;
            }
            match self.decoder.read(bytes)? {
                0 if !bytes.is_empty() => self.end()?,
                n => return Ok(n),
            }
        }
    }
}
