"""The attributes of a file that an edit preserves: owner, group, mode, ACL and other extended attributes."""

import errno
import os
import stat

from protocol.structs import Value

# The file system, or the kind of file, has no extended attributes.
_NO_XATTRS = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM)


class FileAttributes(Value, frozen=True):
    """The attributes of a file. ``links`` is its number of names; ``xattrs`` include its ACL."""

    mode: int
    owner: int
    group: int
    links: int
    xattrs: dict[str, bytes]


def read_attributes(descriptor: int, status: os.stat_result) -> FileAttributes:
    """Return the attributes of an open file. Errors: OSError."""
    xattrs = {}
    try:
        for name in os.listxattr(descriptor):
            xattrs[name] = os.getxattr(descriptor, name)
    except OSError as error:
        if error.errno not in _NO_XATTRS:
            raise
    return FileAttributes(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_nlink, xattrs)


def copy_attributes(attributes: FileAttributes, descriptor: int) -> bool:
    """Give a new file the attributes of another; return whether it has all of them.

    A daemon without privileges cannot give a file away. The mode is set in any case, last, because a change
    of owner takes bits of it.
    """
    status = os.fstat(descriptor)
    is_complete = True
    try:
        if (status.st_uid, status.st_gid) != (attributes.owner, attributes.group):
            os.fchown(descriptor, attributes.owner, attributes.group)
        for name, value in attributes.xattrs.items():
            os.setxattr(descriptor, name, value)
    except OSError:
        is_complete = False
    # Without the file's owner, its set-user-ID bit would be another program's.
    os.fchmod(descriptor, attributes.mode if is_complete else attributes.mode & 0o777)
    return is_complete and read_attributes(descriptor, os.fstat(descriptor)).xattrs == attributes.xattrs
