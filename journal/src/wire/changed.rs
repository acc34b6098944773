//! Bytes of what is said about changed extents.

use crate::codec::{Malformed, Reader, Writer};
use crate::types::{Changed, ExtentRun, Sectors};

pub(super) const CHANGED_BYTES: usize = 16;
pub(super) const RUN_BYTES: usize = 8;

impl Changed {
    pub(super) fn encode(&self, w: &mut Writer) {
        w.u64(self.size.map_or(0, Sectors::count)).u32(self.next.unwrap_or(0)).u32(0);
        for ExtentRun { first, count } in &self.runs {
            w.u32(*first).u32(*count);
        }
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let size = Some(r.u64()?).filter(|sectors| *sectors != 0);
        let size = size.map(|sectors| Sectors::new(sectors).ok_or(Malformed("an impossible size"))).transpose()?;
        let next = Some(r.u32()?).filter(|next| *next != 0);
        r.reserved(4)?;
        let (fields, rest) = r.rest().as_chunks::<RUN_BYTES>();
        if !rest.is_empty() {
            return Err(Malformed("half a run"));
        }
        let (mut runs, mut end) = (Vec::with_capacity(fields.len()), 0);
        for fields in fields {
            let mut fields = Reader::new(fields);
            let run = ExtentRun { first: fields.u32()?, count: fields.u32()? };
            if run.count == 0 || run.first < end || (run.first == end && end != 0) {
                return Err(Malformed("runs that are out of order"));
            }
            end = run.first.checked_add(run.count).ok_or(Malformed("a run beyond the last extent"))?;
            runs.push(run);
        }
        if next.is_some_and(|next| next < end) {
            return Err(Malformed("a page that goes beyond its end"));
        }
        *r = Reader::new(&[]);
        Ok(Self { size, next, runs })
    }
}
