//! Writes what is generated from the Rust types: `crdgen CRD-DIRECTORY SCHEMA-DIRECTORY`.
//! Each directory then holds these files and no others. A test compares them with the types.

use skysail_schemas::generate::{File, crds, json_schemas};
use std::path::Path;
use std::{env, fs, io, process};

fn main() {
    let directories: Vec<_> = env::args().skip(1).collect();
    let [crd_directory, schema_directory] = directories.as_slice() else {
        eprintln!("usage: crdgen CRD-DIRECTORY SCHEMA-DIRECTORY");
        process::exit(2);
    };
    for (directory, files) in [(crd_directory, crds()), (schema_directory, json_schemas())] {
        if let Err(e) = write(Path::new(directory), &files) {
            eprintln!("crdgen: {directory}: {e}");
            process::exit(1);
        }
    }
}

fn write(directory: &Path, files: &[File]) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if files.iter().all(|file| *file.name != *entry.file_name()) {
            fs::remove_file(entry.path())?;
        }
    }
    for file in files {
        fs::write(directory.join(&file.name), &file.text)?;
    }
    Ok(())
}
