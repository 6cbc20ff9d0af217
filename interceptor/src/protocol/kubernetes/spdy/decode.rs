//! Bytes to frames.

use bytes::{Buf as _, BytesMut};

use super::headers::Inflater;
use super::{
    BLOCK_LIMIT, Broken, CLEAR, CONTROL, FIN, Frame, GOAWAY, HEADERS, Headers, PERSISTENCE, PIECE_LIMIT, PING,
    RST_STREAM, SETTINGS, SETTINGS_LIMIT, SYN_REPLY, SYN_STREAM, U24, UNIDIRECTIONAL, VERSION, WINDOW_UPDATE, known,
    positive, short, some,
};

/// Reads the frames of one direction.
#[derive(Debug)]
pub struct Decoder {
    inflater: Inflater,
    /// A frame of data of which not all has come.
    data: Option<Open>,
    broken: Option<Broken>,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    id: u32,
    fin: bool,
    left: usize,
}

/// What the first eight bytes of a frame that is not data say, but for its length.
#[derive(Clone, Copy)]
struct Head {
    kind: u16,
    flags: u8,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// At the first byte of a direction.
    #[must_use]
    pub fn new() -> Self {
        Self { inflater: Inflater::new(), data: None, broken: None }
    }

    /// How many bytes of what was read are held: of headers alone, since later ones may point back to them.
    #[must_use]
    pub fn held(&self) -> usize {
        self.inflater.held()
    }

    /// No frame of data is begun: with no input left, the direction may end here.
    #[must_use]
    pub const fn between(&self) -> bool {
        self.data.is_none()
    }

    /// Takes the next frame, or the next piece of one of data, out of the bytes; `None` where more of them are needed.
    /// Only the last piece of a frame says that the stream ends.
    ///
    /// # Errors
    /// [`Broken`], and the same from then on.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, Broken> {
        if let Some(broken) = self.broken {
            return Err(broken);
        }
        let next = self.step(input);
        self.broken = next.as_ref().err().copied();
        next
    }

    fn step(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, Broken> {
        if let Some(open) = self.data {
            return Ok(if input.is_empty() { None } else { Some(self.piece(open, input)) });
        }
        let mut head = input.as_ref();
        let (Ok(first), Ok(second)) = (head.try_get_u32(), head.try_get_u32()) else { return Ok(None) };
        let [flags, ..] = second.to_be_bytes();
        let length = usize::try_from(second & U24).map_err(|_| Broken::Long)?;
        if first & CONTROL == 0 {
            let id = some(first)?;
            known(flags, FIN)?;
            input.advance(8);
            let open = Open { id, fin: flags & FIN != 0, left: length };
            // One that is empty is there already; of all others, there is a piece where there is a byte.
            if length > 0 && input.is_empty() {
                self.data = Some(open);
                return Ok(None);
            }
            return Ok(Some(self.piece(open, input)));
        }
        let head = Head::read(first, flags, length)?;
        if input.len() < 8 + length {
            return Ok(None);
        }
        input.advance(8);
        self.control(head, &input.split_to(length)).map(Some)
    }

    fn piece(&mut self, open: Open, input: &mut BytesMut) -> Frame {
        let payload = input.split_to(open.left.min(input.len()).min(PIECE_LIMIT)).freeze();
        let left = open.left - payload.len();
        self.data = (left > 0).then_some(Open { left, ..open });
        Frame::Data { id: open.id, fin: open.fin && left == 0, payload }
    }

    fn control(&mut self, head: Head, mut body: &[u8]) -> Result<Frame, Broken> {
        let fin = head.flags & FIN != 0;
        let frame = match head.kind {
            SYN_STREAM => {
                let (id, associated) = (some(number(&mut body)?)?, number(&mut body)?);
                let [priority, slot] = word(&mut body)?.to_be_bytes();
                if priority & 0x1F != 0 || slot != 0 {
                    return Err(Broken::Reserved);
                }
                let unidirectional = head.flags & UNIDIRECTIONAL != 0;
                let headers = self.headers(&mut body)?;
                Frame::SynStream { id, associated, priority: priority >> 5, fin, unidirectional, headers }
            }
            SYN_REPLY => Frame::SynReply { id: some(number(&mut body)?)?, fin, headers: self.headers(&mut body)? },
            HEADERS => Frame::Headers { id: some(number(&mut body)?)?, fin, headers: self.headers(&mut body)? },
            RST_STREAM => Frame::Reset { id: some(number(&mut body)?)?, status: positive(long(&mut body)?)? },
            SETTINGS => Frame::Settings { clear: head.flags & CLEAR != 0, entries: settings(&mut body)? },
            PING => Frame::Ping(long(&mut body)?),
            GOAWAY => Frame::GoAway { last: number(&mut body)?, status: long(&mut body)? },
            WINDOW_UPDATE => Frame::WindowUpdate { id: number(&mut body)?, delta: positive(number(&mut body)?)? },
            _ => return Err(Broken::Kind),
        };
        if body.is_empty() { Ok(frame) } else { Err(Broken::Length) }
    }

    fn headers(&mut self, body: &mut &[u8]) -> Result<Headers, Broken> {
        self.inflater.read(std::mem::take(body))
    }
}

impl Head {
    /// Refuses at once what need not be waited for.
    fn read(first: u32, flags: u8, length: usize) -> Result<Self, Broken> {
        if first & !CONTROL >> 16 << 16 != VERSION << 16 {
            return Err(Broken::Version);
        }
        let kind = u16::try_from(first & 0xFFFF).map_err(|_| Broken::Kind)?;
        let (may, least, most) = match kind {
            SYN_STREAM => (FIN | UNIDIRECTIONAL, 10, 10 + BLOCK_LIMIT),
            SYN_REPLY | HEADERS => (FIN, 4, 4 + BLOCK_LIMIT),
            SETTINGS => (CLEAR, 4, 4 + 8 * SETTINGS_LIMIT),
            RST_STREAM | GOAWAY | WINDOW_UPDATE => (0, 8, 8),
            PING => (0, 4, 4),
            _ => return Err(Broken::Kind),
        };
        known(flags, may)?;
        match length {
            _ if length < least || length > most && least == most => Err(Broken::Length),
            _ if length > most => Err(Broken::Long),
            _ => Ok(Self { kind, flags }),
        }
    }
}

fn settings(body: &mut &[u8]) -> Result<Vec<(u8, u32, u32)>, Broken> {
    let count = long(body)?;
    if u64::from(count) * 8 != body.len() as u64 {
        return Err(Broken::Length);
    }
    let mut entries = Vec::new();
    for _ in 0..count {
        let (name, value) = (long(body)?, long(body)?);
        let [flags, ..] = name.to_be_bytes();
        known(flags, PERSISTENCE)?;
        entries.push((flags, name & U24, value));
    }
    Ok(entries)
}

fn word(body: &mut &[u8]) -> Result<u16, Broken> {
    body.try_get_u16().map_err(|_| Broken::Length)
}

fn long(body: &mut &[u8]) -> Result<u32, Broken> {
    body.try_get_u32().map_err(|_| Broken::Length)
}

/// Of 31 bits.
fn number(body: &mut &[u8]) -> Result<u32, Broken> {
    long(body).and_then(short)
}
