"""The store: the code that manages the volume of a cache pod.

    store          the interface: everything that the gate does with the volume
    layout         paths and links, valid names, references of manifests
    index          everything that is stored, in memory
    references     what manifests name, compactly
    volume         the lock on the volume, and the check of what it can do
    unseen_time    jumps of the clock
    files          changes of files and folders
    room           limits, reservations, and the one place that evicts
    removal        removal of blobs and tags
    incoming_blob  a blob that is being written
    interrupted    the beginning of a large blob, for the next fetch of it
    writing        writing of blobs and links
    loading        reading and repair of the volume at the start
    statistics     its figures

The gate is the only program that changes the volume. Distribution reads links and manifests at the same time, and nginx
reads blobs. They see each file complete or not at all: a file gets its name when it is flushed to the disk, and content
is removed from the end where readers begin. A program that is killed at any system call leaves a folder that
distribution can read and that the next `Store.load` repairs. Nothing else is stored: the last use of a blob is the
modification time of its file, and everything else follows from the folder. So does how much there is of an interrupted
blob.

There are two locks. `Index.lock` guards the index and the names in the folder. It is held for a few system calls on
names at a time; no content is read, written or flushed under it. `Room.lock` is held while blobs are admitted and room
is made, and is taken first where both are needed.
"""
