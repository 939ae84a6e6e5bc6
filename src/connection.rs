//! The life of one downstream connection, from accept to close. Start reading here.
