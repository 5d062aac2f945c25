//! `tally:plugin/worker` and `tally:plugin/request-headers`: what a guest may ask about the
//! request and who answers it.

use http::HeaderName;

use super::{
    Context,
    bindings::plugin::tally::plugin::{request_headers, worker},
};

impl worker::Host for Context {
    fn process_id(&mut self) -> u32 {
        self.effects.look_outside();
        std::process::id()
    }

    fn instance(&mut self) -> u64 {
        self.effects.look_outside();
        self.worker.instance
    }

    fn guest_version(&mut self) -> String {
        self.effects.look_outside();
        self.worker.guest_version.to_string()
    }
}

impl request_headers::Host for Context {
    fn get(&mut self, name: String) -> Option<String> {
        // A repeat may come with others.
        self.effects.look_outside();
        let name = HeaderName::try_from(name).ok()?;
        let mut lines = self.headers.get_all(name).iter();
        let mut joined = std::str::from_utf8(lines.next()?.as_bytes()).ok()?.to_owned();
        for line in lines {
            joined.push_str(", ");
            joined.push_str(std::str::from_utf8(line.as_bytes()).ok()?);
        }
        Some(joined)
    }
}
