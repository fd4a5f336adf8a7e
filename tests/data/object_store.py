"""An object store in memory: keys without folders, no rename, a key appears when its stream is closed."""

import io

import pyarrow as pa
import pyarrow.fs as pafs

__all__ = ["ObjectStore", "object_store"]


class _Upload(io.BytesIO):
    """A stream whose bytes become a key when it is closed."""

    def __init__(self, store, path):
        super().__init__()
        self._store, self._path = store, path

    def close(self):
        if not self.closed:
            self._store.log.append(self._path)
            self._store.keys[self._path] = self.getvalue()
        super().close()


class ObjectStore(pafs.FileSystemHandler):
    """The behavior of S3 that matters here; ``keys`` holds the bytes, ``log`` the order of uploads."""

    def __init__(self):
        self.keys = {}
        self.log = []

    def get_type_name(self):
        return "object-store"

    def normalize_path(self, path):
        return path

    def get_file_info(self, paths):
        return [self._info(path) for path in paths]

    def get_file_info_selector(self, selector):
        prefix = selector.base_dir + "/"
        found = set()
        for key in self.keys:
            if key.startswith(prefix):
                parts = key.removeprefix(prefix).split("/")
                depth = len(parts) if selector.recursive else 1
                found.update(prefix + "/".join(parts[:n]) for n in range(1, depth + 1))
        if not found and not selector.allow_not_found:
            raise FileNotFoundError(selector.base_dir)
        return [self._info(path) for path in sorted(found)]

    def _info(self, path):
        if path in self.keys:
            return pafs.FileInfo(path, pafs.FileType.File, size=len(self.keys[path]))
        is_folder = any(key.startswith(path + "/") for key in self.keys)
        return pafs.FileInfo(path, pafs.FileType.Directory if is_folder else pafs.FileType.NotFound)

    def create_dir(self, path, recursive):
        pass

    def delete_dir(self, path):
        self.delete_dir_contents(path)

    def delete_dir_contents(self, path, missing_dir_ok=False):
        doomed = [key for key in self.keys if key.startswith(path + "/")]
        if not doomed and not missing_dir_ok:
            raise FileNotFoundError(path)
        for key in doomed:
            del self.keys[key]

    def delete_root_dir_contents(self):
        raise NotImplementedError("nothing of rgals may empty a bucket")

    def delete_file(self, path):
        del self.keys[path]

    def move(self, src, dest):
        raise NotImplementedError("an object store cannot rename")

    def copy_file(self, src, dest):
        raise NotImplementedError("nothing of rgals copies")

    def open_input_stream(self, path):
        return self.open_input_file(path)

    def open_input_file(self, path):
        if path not in self.keys:
            raise FileNotFoundError(path)
        return pa.PythonFile(io.BytesIO(self.keys[path]), mode="r")

    def open_output_stream(self, path, metadata):
        return pa.PythonFile(_Upload(self, path), mode="w")

    def open_append_stream(self, path, metadata):
        raise NotImplementedError("an object store cannot append")


def object_store():
    """Make an empty store: its handler, and the filesystem over it."""
    handler = ObjectStore()
    return handler, pafs.PyFileSystem(handler)
