//! systemd-boot where the firmware looks for a UKI: which UKI it starts, and what is measured of it (systemd-boot(7), loader.conf(5)).
//!
//! Understood is an EFI system partition with one unified kernel image below `EFI/Linux` and no other entry. Where there are several, the choice depends on variables of the firmware.

use crate::Event;
use crate::boot::Error;
use crate::event::kind;
use crate::parse::fat::Fat;
use crate::parse::pe::Pe;
use crate::parse::stub;
use crate::tpm::{pcr04, pcr05};

const UNIFIED: &str = "EFI/Linux";
const CONFIGURATION: &str = "loader/loader.conf";
/// Directories that systemd-boot acts on in ways that are not modelled: entries of its other kind, drivers, keys that it enrolls.
const NOT_MODELLED: [&str; 3] = ["loader/entries", "EFI/systemd/drivers", "loader/keys"];
/// The version whose boots were compared.
const OBSERVED: u32 = 257;

/// systemd-boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loader {
    image: Vec<u8>,
    version: u32,
    configuration: Option<Vec<u8>>,
}

impl Loader {
    /// This image, if it is systemd-boot.
    ///
    /// # Errors
    /// [`Error::Fat`].
    pub fn read(fat: &Fat, image: &[u8]) -> Result<Option<Self>, Error> {
        let program = Pe::parse(image).ok().and_then(|pe| stub::program(&pe));
        let Some((_, version)) = program.filter(|(name, _)| name == "systemd-boot") else { return Ok(None) };
        let configuration = fat.read(CONFIGURATION).map_err(Error::Fat)?;
        Ok(Some(Self { image: image.into(), version, configuration }))
    }

    /// The path of the only UKI that it can start.
    ///
    /// # Errors
    /// [`Error::Loader`] where there is none, or something else.
    pub fn choice(fat: &Fat) -> Result<String, Error> {
        for directory in NOT_MODELLED {
            let entries = fat.list(directory).map_err(Error::Fat)?.unwrap_or_default();
            if let Some(entry) = entries.first() {
                return Err(Error::Loader(format!("{directory}/{} is not modelled", entry.name)));
            }
        }
        let entries = fat.list(UNIFIED).map_err(Error::Fat)?.unwrap_or_default();
        let is_image = |name: &str| name.to_ascii_lowercase().ends_with(".efi");
        let names: Vec<String> = entries
            .into_iter()
            .filter(|entry| !entry.is_folder && is_image(&entry.name))
            .map(|entry| entry.name)
            .collect();
        match &names[..] {
            [] => Err(Error::Loader(format!("{UNIFIED} has no unified kernel image"))),
            [name] if name.contains('+') => {
                Err(Error::Loader(format!("{UNIFIED}/{name} counts its boots in its name, which is not modelled")))
            }
            [name] => Ok(format!("{UNIFIED}/{name}")),
            [first, second, ..] => Err(Error::Loader(format!(
                "{} images in {UNIFIED}, among them {first} and {second}: which one starts depends on the machine's variables; keep one",
                names.len()
            ))),
        }
    }

    /// What is measured of it, before the UKI.
    ///
    /// # Errors
    /// [`Error::Loader`] where it is no PE image.
    pub fn events(&self) -> Result<Vec<Event>, Error> {
        let pe = Pe::parse(&self.image).map_err(|error| Error::Loader(error.to_string()))?;
        let mut events = vec![pcr04::other("systemd-boot", &pe)];
        events.extend(self.configuration.as_deref().map(pcr05::loader_configuration));
        if self.version != OBSERVED {
            let reason = format!("systemd-boot {} was not compared with a real boot", self.version);
            let unknown =
                |(register, kind)| Event::unknown(register, kind, crate::Source::Image, "systemd-boot", &reason);
            events.extend([(4, kind::APPLICATION), (5, kind::TAG), (9, kind::TAG), (12, kind::IPL)].map(unknown));
        }
        Ok(events)
    }
}
