"""A filesystem that behaves like an object store: no folders to make, no renaming of folders."""

from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from rgals.data.storage import Folder


class ObjectStoreHandler(pafs.FileSystemHandler):
    """Keeps objects as files below ``root``; remembers the order in which they were written."""

    def __init__(self, root: Path) -> None:
        self._inner = pafs.SubTreeFileSystem(str(root), pafs.LocalFileSystem())
        self._root = root
        self.written: list[str] = []

    def get_type_name(self) -> str:
        return "object-store"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> Any:
        return self._inner.get_file_info(paths)

    def get_file_info_selector(self, selector: pafs.FileSelector) -> Any:
        return self._inner.get_file_info(selector)

    def create_dir(self, path: str, recursive: bool) -> None:
        raise NotImplementedError("an object store has no folders")

    def delete_dir(self, path: str) -> None:
        self._inner.delete_dir(path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        raise NotImplementedError

    def delete_root_dir_contents(self) -> None:
        raise NotImplementedError

    def delete_file(self, path: str) -> None:
        self._inner.delete_file(path)

    def move(self, src: str, dest: str) -> None:
        if (self._root / src).is_dir():
            raise NotImplementedError("an object store cannot rename folders")
        self._inner.move(src, dest)

    def copy_file(self, src: str, dest: str) -> None:
        raise NotImplementedError

    def open_input_stream(self, path: str) -> Any:
        return self._inner.open_input_stream(path)

    def open_input_file(self, path: str) -> Any:
        return self._inner.open_input_file(path)

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        (self._root / path).parent.mkdir(parents=True, exist_ok=True)
        self.written.append(path)
        return self._inner.open_output_stream(path)

    def open_append_stream(self, path: str, metadata: Any) -> Any:
        raise NotImplementedError


def object_store(root: Path) -> tuple[pafs.FileSystem, ObjectStoreHandler]:
    """Give a filesystem below ``root`` and its handler."""
    handler = ObjectStoreHandler(root)
    return pafs.PyFileSystem(handler), handler


def remote_folder(root: Path, path: str = "bucket/model") -> Folder:
    """Address a folder on an object store below ``root``."""
    return Folder(object_store(root)[0], path)
