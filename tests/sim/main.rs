//! The simulation is held to what it imitates: the same scenarios run on it and on the real neighbours.

mod kubernetes;
mod metadata;
mod product;

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
                #[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
                async fn $scenario() {
                    super::$scenario(super::World::real().await).await;
                }
            )+
        }
    };
}
use on_both;
