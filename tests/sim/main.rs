//! The simulation is held to what it imitates: the same scenarios run on it and on the real neighbours.

mod kubernetes;
mod metadata;
#[path = "../peers/mod.rs"]
mod peers;
mod product;
#[path = "../served/mod.rs"]
mod served;

/// Makes two tests of each scenario, one on the simulated world and one on the real.
macro_rules! on_both {
    ($($scenario:ident),+ $(,)?) => {
        mod simulated {
            $(
                #[tokio::test]
                async fn $scenario() {
                    super::$scenario(super::World::simulated().await).await;
                }
            )+
        }
        mod real {
            $(
                #[tokio::test]
                async fn $scenario() {
                    let Some(world) = super::World::real().await else { return };
                    super::$scenario(world).await;
                }
            )+
        }
    };
}
use on_both;
