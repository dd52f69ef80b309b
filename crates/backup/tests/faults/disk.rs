//! Disks that are really full: a small file system in the place of a folder, in a mount namespace of its own, or a limit on the
//! length of files.

use std::path::Path;
use std::process::Command;

/// Puts the folder's contents on a disk of their own, works there, and brings back what is then in it, when there is room.
const ON_A_DISK: &str = r#"
target=$STEWARD_TEST_FAULTS_FOLDER/$1 small=$STEWARD_TEST_FAULTS_FOLDER/small free=$2 inodes=$3; shift 3
mkdir "$small"
mount -t tmpfs -o size=512m,mode=0700 none "$small"
cp -a "$target/." "$small/"
used=$(df -k --output=used "$small" | tail -1)
files=$(df -k --output=iused "$small" | tail -1)
mount -o "remount,size=$((used + free))k" "$small"
[ "$inodes" = - ] || mount -o "remount,nr_inodes=$((files + inodes))" "$small"
mount --bind "$small" "$target"
status=0
"$@" || status=$?
rm -f "$target/filler"
umount "$target"
find "$target" -mindepth 1 -delete
cp -a "$small/." "$target/"
umount "$small"
rmdir "$small"
exit $status
"#;

/// What is too small, and by how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disk {
    /// The folder's disk has so many KiB left.
    Room(&'static str, usize),
    /// It has room, and none for more than so many files.
    Inodes(&'static str, usize),
    /// No file is longer than so many blocks of 512 bytes.
    FileLength(usize),
}

impl Disk {
    /// What runs a program there.
    pub(crate) fn command(&self, folder: &Path, program: &Path) -> Command {
        let (target, free, inodes) = match self {
            Self::Room(target, free) => (target, *free, "-".to_owned()),
            Self::Inodes(target, inodes) => (target, 200 << 10, inodes.to_string()),
            Self::FileLength(blocks) => {
                let mut command = Command::new("sh");
                let limit = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"");
                command.args(["-ec", &limit, "sh"]).arg(program);
                return command;
            }
        };
        let mut command = Command::new("unshare");
        command
            .args([
                "--map-root-user",
                "--mount",
                "sh",
                "-ec",
                ON_A_DISK,
                "sh",
                target,
                &free.to_string(),
                &inodes,
            ])
            .arg(program)
            .current_dir(folder);
        command
    }
}

/// Fills the disk of a folder, but for so many bytes.
pub(crate) fn fill(folder: &Path, leave: u64) {
    use std::io::Write as _;
    let mut filler = std::fs::File::create(folder.join("filler")).unwrap();
    let block = vec![0; 64 << 10];
    let mut length = 0;
    for size in [block.len(), 4 << 10] {
        while filler.write_all(&block[..size]).is_ok() {
            length += size as u64;
        }
    }
    // What a write that failed has put there is no multiple of the blocks.
    filler.set_len(length.saturating_sub(leave)).unwrap();
}
