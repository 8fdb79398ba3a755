"""The one durable record of what the agent did: append-only, one record a trajectory.

    folder/part-NUMBER-NONCE.rlj    frames, one after the other; the truth
    folder/index                    where each record lies; rebuilt whenever it doesn't fit
    folder/lock                     held by the one live writer

A record that is damaged, wherever it lies, costs only itself: readers go on at the next one and
say so. Nothing is ever unpickled, and no record may grow beyond `MAX_RECORD_BYTES` when it is
decompressed.
"""

from rlagents.journal.codec import MAX_RECORD_BYTES
from rlagents.journal.reader import Damage, JournalReader, Record, read
from rlagents.journal.writer import Journal

__all__ = ["MAX_RECORD_BYTES", "Damage", "Journal", "JournalReader", "Record", "read"]
